/// `postgres --version` (or `server_version`) as `server_version_num` has it: `15.20` is 150020, `17beta2` is 170000.
pub(crate) fn parse_version(text: &str) -> Option<u32> {
    let word = text.split_whitespace().find(|w| w.starts_with(|c: char| c.is_ascii_digit()))?;
    let digits = |s: &str| -> String { s.chars().take_while(char::is_ascii_digit).collect() };
    let major: u32 = digits(word).parse().ok()?;
    let minor: u32 = word.split_once('.').map_or(Some(0), |(_, m)| digits(m).parse().ok())?;
    (major >= 10 && minor < 10_000).then(|| major * 10_000 + minor)
}

/// The content of `PG_VERSION` as a number: `15` is 150000, `9.6` is 90600.
pub(crate) fn parse_pg_version(text: &str) -> Option<u32> {
    let text = text.trim();
    match text.split_once('.') {
        None => text.parse::<u32>().ok().filter(|n| (10..1000).contains(n)).map(|n| n * 10_000),
        Some((major, minor)) => {
            let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
            (major < 10 && minor < 100).then(|| major * 10_000 + minor * 100)
        }
    }
}

/// 15 for 150020; 9.6 for 90600.
pub(crate) fn major_text(version: u32) -> String {
    if version >= 100_000 {
        (version / 10_000).to_string()
    } else {
        format!("{}.{}", version / 10_000, version / 100 % 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (text, want) in [
            ("postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)", Some(150_020)),
            ("postgres (PostgreSQL) 17beta2", Some(170_000)),
            ("postgres (PostgreSQL) 18.0", Some(180_000)),
            ("postgres (PostgreSQL)", None),
        ] {
            assert_eq!(parse_version(text), want, "{text}");
        }
        for (text, want) in [("15\n", Some(150_000)), ("9.6", Some(90_600)), ("", None), ("x", None), ("0", None)] {
            assert_eq!(parse_pg_version(text), want, "{text}");
        }
        assert_eq!((major_text(150_020), major_text(90_600)), ("15".into(), "9.6".into()));
    }
}
