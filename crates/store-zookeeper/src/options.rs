//! How to reach ZooKeeper, checked before anything is sent.

use std::fmt;

use surus_store::{StoreError, StoreResult};

use crate::wire::Acl;

const DEFAULT_PORT: u16 = 2181;

#[derive(Clone, Default)]
pub struct ZooKeeperOptions {
    /// `host` or `host:port`; the last one may be followed by a path below which everything is kept (chroot).
    pub hosts: Vec<String>,
    /// TLS, if any.
    pub tls: Option<TlsFiles>,
    /// Scheme and credential each, such as `digest` and `user:password`.
    pub auth: Vec<(String, String)>,
    /// Who may do what with every znode made here. Empty: everybody everything.
    pub acls: Vec<Grant>,
}

/// PEM texts. Without `ca_pem` servers are checked against the system's certificates.
#[derive(Clone)]
pub struct TlsFiles {
    pub ca_pem: Option<String>,
    pub cert_pem: Option<String>,
    pub key_pem: Option<String>,
    pub verify: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// `scheme:id`; without a scheme it is `x509`.
    pub principal: String,
    /// `CREATE`, `READ`, `WRITE`, `DELETE`, `ADMIN`, `ALL`, in any case.
    pub permissions: Vec<String>,
}

impl fmt::Debug for ZooKeeperOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither credentials nor the private key may reach a log.
        f.debug_struct("ZooKeeperOptions").field("hosts", &self.hosts).field("acls", &self.acls).finish_non_exhaustive()
    }
}

fn refused(text: String) -> StoreError {
    StoreError::Refused(text)
}

impl ZooKeeperOptions {
    /// Names and ports, and the path before every key, `""` for none.
    pub(crate) fn addresses(&self) -> StoreResult<(Vec<(String, u16)>, String)> {
        let mut addresses: Vec<(String, u16)> = Vec::new();
        let mut chroot = String::new();
        for (index, text) in self.hosts.iter().enumerate() {
            let text = text.trim();
            let (address, path) = text.split_at(text.find('/').unwrap_or(text.len()));
            let path = path.trim_end_matches('/');
            if !path.is_empty() && index + 1 != self.hosts.len() {
                return Err(refused(format!(
                    "ZooKeeper host \"{text}\" is not usable: only the last one may be followed by a path"
                )));
            }
            chroot = path.to_owned();
            let address = host_port(text, address)?;
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() {
            return Err(refused("no ZooKeeper server is configured: set `zookeeper.hosts`".to_owned()));
        }
        Ok((addresses, chroot))
    }

    pub(crate) fn acl_list(&self) -> StoreResult<Vec<Acl>> {
        if self.acls.is_empty() {
            return Ok(vec![Acl { permissions: ALL, scheme: "world".into(), id: "anyone".into() }]);
        }
        self.acls.iter().map(Grant::acl).collect()
    }
}

const ALL: i32 = 31;
const SCHEMES: [&str; 6] = ["world", "auth", "digest", "ip", "x509", "sasl"];

impl Grant {
    fn acl(&self) -> StoreResult<Acl> {
        let mut permissions = 0;
        for word in &self.permissions {
            permissions |= match word.to_ascii_uppercase().as_str() {
                "READ" => 1,
                "WRITE" => 2,
                "CREATE" => 4,
                "DELETE" => 8,
                "ADMIN" => 16,
                "ALL" => ALL,
                _ => {
                    return Err(refused(format!(
                        "`zookeeper.set_acls`: \"{word}\" for \"{}\" is no permission; they are CREATE, READ, WRITE, \
                         DELETE, ADMIN and ALL",
                        self.principal
                    )));
                }
            };
        }
        // A name in a certificate may contain a colon of its own.
        let (scheme, id) = match self.principal.split_once(':') {
            Some((scheme, id)) if SCHEMES.contains(&scheme) => (scheme, id),
            _ => ("x509", self.principal.as_str()),
        };
        Ok(Acl { permissions, scheme: scheme.to_owned(), id: id.to_owned() })
    }
}

fn host_port(text: &str, address: &str) -> StoreResult<(String, u16)> {
    let bad = |why: &str| refused(format!("ZooKeeper host \"{text}\" is not usable: {why}; write it as host:2181"));
    let (host, rest) = match address.strip_prefix('[') {
        Some(v6) => v6.split_once(']').ok_or_else(|| bad("a closing bracket is missing"))?,
        // The colons of a bare IPv6 address would be taken for a port.
        None if address.matches(':').count() > 1 => return Err(bad("an IPv6 address needs brackets")),
        None => address.split_at(address.find(':').unwrap_or(address.len())),
    };
    if host.is_empty() || host.contains(char::is_whitespace) {
        return Err(bad("the host is missing, or has a space in it"));
    }
    match rest.strip_prefix(':') {
        None if rest.is_empty() => Ok((host.to_owned(), DEFAULT_PORT)),
        Some(port) => match port.parse() {
            Ok(port) if port != 0 => Ok((host.to_owned(), port)),
            _ => Err(bad("the port is no number between 1 and 65535")),
        },
        None => Err(bad("there is something after the bracket")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(hosts: &[&str]) -> ZooKeeperOptions {
        ZooKeeperOptions { hosts: hosts.iter().map(|h| (*h).to_owned()).collect(), ..ZooKeeperOptions::default() }
    }

    #[test]
    fn hosts_are_understood_or_refused_by_name() {
        let (addresses, chroot) = options(&["a", "b:1", " [::1]:2 ", "a:2181/pg/"]).addresses().unwrap();
        assert_eq!(addresses, [("a".into(), 2181), ("b".into(), 1), ("::1".into(), 2)]);
        assert_eq!(chroot, "/pg");
        for bad in ["", ":1", "a:0", "a:x", "::1", "[::1", "[::1]x", "a b"] {
            let Err(StoreError::Refused(text)) = options(&[bad]).addresses() else { panic!("{bad}") };
            assert!(text.contains(&format!("\"{bad}\"")), "{text}");
        }
        assert!(options(&["a/x", "b"]).addresses().is_err());
        assert!(options(&[]).addresses().is_err());
    }

    #[test]
    fn principals_have_a_scheme_or_are_certificates() {
        let acl = |principal: &str, permissions: &[&str]| {
            let permissions = permissions.iter().map(|p| (*p).to_owned()).collect();
            Grant { principal: principal.into(), permissions }.acl()
        };
        let digest = acl("digest:pg:hash=", &["all"]).unwrap();
        assert_eq!((digest.permissions, digest.scheme.as_str(), digest.id.as_str()), (31, "digest", "pg:hash="));
        let x509 = acl("CN=a:b", &["READ", "CREATE"]).unwrap();
        assert_eq!((x509.permissions, x509.scheme.as_str(), x509.id.as_str()), (5, "x509", "CN=a:b"));
        assert!(matches!(acl("x", &["LIST"]), Err(StoreError::Refused(text)) if text.contains("\"LIST\"")));
    }
}
