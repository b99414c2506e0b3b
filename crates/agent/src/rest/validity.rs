//! Until when the server's certificate is good, and when that has to be told.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::time::Time;

/// Whoever renews certificates of a year or of three months does it before that. Those that live shorter are told of in
/// the last fifth of their life: they are renewed after two thirds of it.
const EARLY: SignedDuration = SignedDuration::from_hours(14 * 24);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validity {
    path: PathBuf,
    from: Timestamp,
    until: Timestamp,
}

impl Validity {
    /// Clients check every certificate of the chain, so the first that ends is what counts.
    pub fn of_chain(path: &Path, chain: &[CertificateDer<'_>]) -> Result<Validity, String> {
        let mut found: Option<Validity> = None;
        for certificate in chain {
            let certificate = Certificate::from_der(certificate).map_err(|e| e.to_string())?;
            let validity = certificate.tbs_certificate.validity;
            let (from, until) = (timestamp(validity.not_before)?, timestamp(validity.not_after)?);
            if found.as_ref().is_none_or(|f| until < f.until) {
                found = Some(Validity { path: path.to_owned(), from, until });
            }
        }
        found.ok_or_else(|| "there is no certificate".into())
    }

    /// Negative once it has ended.
    pub fn seconds_left(&self, now: Timestamp) -> i64 {
        self.until.as_second() - now.as_second()
    }

    /// Soon enough to do something about it.
    pub fn warning(&self, now: Timestamp) -> Option<String> {
        let left = self.until.duration_since(now);
        let life = self.until.duration_since(self.from);
        if left > EARLY.min(life / 5) {
            return None;
        }
        let (path, until) = (self.path.display(), self.until);
        let whole = Duration::from_secs(left.unsigned_abs().as_secs());
        let span = if whole.as_secs() < 2 * 86_400 {
            format!("{} hours", whole.as_secs() / 3600)
        } else {
            format!("{} days", whole.as_secs() / 86_400)
        };
        Some(if left.is_negative() {
            format!(
                "the certificate of the REST API, {path}, ended {span} ago, at {until}: clients that check it do not \
                 talk to this member. Replace the file; it is taken up without a restart"
            )
        } else {
            format!(
                "the certificate of the REST API, {path}, ends in {span}, at {until}. Replace the file; it is taken up \
                 without a restart"
            )
        })
    }

    pub fn document(&self, now: Timestamp) -> Value {
        let mut document = json!({
            "path": self.path.display().to_string(),
            "not_after": self.until.to_string(),
            "seconds_left": self.seconds_left(now),
        });
        if let Some(warning) = self.warning(now) {
            document["warning"] = warning.into();
        }
        document
    }

    pub fn until(&self) -> Timestamp {
        self.until
    }
}

fn timestamp(time: Time) -> Result<Timestamp, String> {
    let seconds = i64::try_from(time.to_unix_duration().as_secs()).map_err(|e| e.to_string())?;
    Timestamp::from_second(seconds).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(from: i32, until: i32) -> CertificateDer<'static> {
        let mut params = rcgen::CertificateParams::new(vec!["x".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn the_first_of_the_chain_to_end_counts() {
        // From 2050 on a certificate writes its times in another form.
        let chain = [certificate(2020, 2060), certificate(2021, 2031), certificate(2020, 2040)];
        let found = Validity::of_chain(Path::new("/c.pem"), &chain).unwrap();
        assert_eq!(found.until.to_string(), "2031-01-01T00:00:00Z");
        assert_eq!(found.from.to_string(), "2021-01-01T00:00:00Z");
        let long = Validity::of_chain(Path::new("/c.pem"), &chain[..1]).unwrap();
        assert_eq!(long.until.to_string(), "2060-01-01T00:00:00Z");
        assert!(Validity::of_chain(Path::new("/c.pem"), &[CertificateDer::from(vec![1, 2, 3])]).is_err());
    }

    #[test]
    fn when_it_is_told() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let year =
            Validity { path: "/c.pem".into(), from: at("2026-01-01T00:00:00Z"), until: at("2027-01-01T00:00:00Z") };
        let week = Validity { from: at("2026-12-25T00:00:00Z"), ..year.clone() };
        for (validity, now, told) in [
            (&year, "2026-12-17T00:00:00Z", None),
            (&year, "2026-12-18T00:00:00Z", Some("ends in 14 days, at 2027-01-01T00:00:00Z")),
            (&year, "2026-12-31T12:00:00Z", Some("ends in 12 hours")),
            (&year, "2027-01-04T00:00:00Z", Some("ended 3 days ago")),
            (&week, "2026-12-30T00:00:00Z", None),
            (&week, "2026-12-30T16:00:00Z", Some("ends in 32 hours")),
        ] {
            let got = validity.warning(at(now));
            assert_eq!(got.is_some(), told.is_some(), "{now}: {got:?}");
            assert!(told.is_none_or(|part| got.as_ref().unwrap().contains(part)), "{now}: {got:?}");
        }
        assert_eq!(year.seconds_left(at("2027-01-01T00:00:05Z")), -5);
        assert!(year.document(at("2026-05-01T00:00:00Z")).get("warning").is_none());
    }
}
