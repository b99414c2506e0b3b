//! Connection strings as libpq takes them: keywords and values, or a URL.

use std::collections::BTreeMap;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// A name, an address, or the directory of a socket.
    pub host: String,
    /// 0: not said.
    pub port: u16,
    pub user: String,
    pub password: Option<String>,
    pub database: String,
    pub options: BTreeMap<String, String>,
}

/// What the configuration of a user may have, and the variables of libpq for it.
const OPTIONS: [(&str, &str); 10] = [
    ("sslmode", "PGSSLMODE"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("sslpassword", ""),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcrl", "PGSSLCRL"),
    ("sslcrldir", "PGSSLCRLDIR"),
    ("gssencmode", "PGGSSENCMODE"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("sslnegotiation", "PGSSLNEGOTIATION"),
];

impl Connection {
    pub fn parse(text: &str) -> Result<Connection, String> {
        let text = text.trim();
        let url = ["postgresql://", "postgres://"].into_iter().find_map(|scheme| text.strip_prefix(scheme));
        let pairs = match url {
            Some(rest) => of_url(rest)?,
            None => of_keywords(text)?,
        };
        let mut connection = Connection::default();
        for (key, value) in pairs {
            match key.as_str() {
                "host" | "hostaddr" => connection.host = value,
                "port" => connection.port = value.parse().map_err(|_| format!("{value:?} is no port"))?,
                "user" => connection.user = value,
                "password" => connection.password = Some(value),
                "dbname" => connection.database = value,
                known if OPTIONS.iter().any(|(name, _)| *name == known) => {
                    connection.options.insert(key, value);
                }
                // What a session is set up with is of no matter here.
                "application_name" | "connect_timeout" | "options" | "target_session_attrs" | "client_encoding" => {}
                other => return Err(format!("{other:?} is no keyword of a connection string")),
            }
        }
        Ok(connection)
    }

    /// What was left out, from the variables of libpq.
    pub fn complete(&mut self, env: &BTreeMap<String, String>) {
        let variable = |name: &str| env.get(name).filter(|v| !v.is_empty()).cloned();
        let or = |value: &mut String, name: &str, default: &str| {
            if value.is_empty() {
                *value = variable(name).unwrap_or_else(|| default.to_owned());
            }
        };
        or(&mut self.host, "PGHOST", "/var/run/postgresql");
        let os_user = ["USER", "LOGNAME"].into_iter().find_map(variable).unwrap_or_else(|| "postgres".to_owned());
        or(&mut self.user, "PGUSER", &os_user);
        or(&mut self.database, "PGDATABASE", "postgres");
        if self.port == 0 {
            self.port = variable("PGPORT").and_then(|port| port.parse().ok()).unwrap_or(5432);
        }
        self.password = self.password.take().or_else(|| variable("PGPASSWORD"));
        for (name, from) in OPTIONS {
            if let (false, Some(value)) = (self.options.contains_key(name), variable(from)) {
                self.options.insert(name.to_owned(), value);
            }
        }
    }
}

/// `user:password@host:port/database?key=value`.
fn of_url(rest: &str) -> Result<Vec<(String, String)>, String> {
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, address) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (address, ""),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let mut pairs = Vec::new();
    for (key, value) in [("user", user), ("password", password), ("host", host), ("port", port), ("dbname", database)] {
        if !value.is_empty() {
            pairs.push((key.to_owned(), decoded(value)?));
        }
    }
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (key, value) = part.split_once('=').ok_or_else(|| format!("{part:?} is no `key=value`"))?;
        pairs.push((decoded(key)?, decoded(value)?));
    }
    Ok(pairs)
}

fn decoded(text: &str) -> Result<String, String> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        match (digit(), digit()) {
            (Some(high), Some(low)) => out.push(high * 16 + low),
            _ => return Err("there is a `%` that begins no character".to_owned()),
        }
    }
    String::from_utf8(out).map_err(|_| "it is no UTF-8".to_owned())
}

/// `host=a password='it''s \' quoted'`.
fn of_keywords(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or_else(|| "expected `keyword=value` pairs".to_owned())?;
        let mut letters = after.trim_start().chars().peekable();
        let quoted = letters.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        let mut closed = !quoted;
        while let Some(letter) = letters.next() {
            match letter {
                '\\' => value.extend(letters.next()),
                '\'' if quoted => {
                    closed = true;
                    break;
                }
                blank if blank.is_whitespace() && !quoted => break,
                other => value.push(other),
            }
        }
        if !closed {
            return Err("there is a quote that is not closed".to_owned());
        }
        pairs.push((key.trim().to_owned(), value));
        let left: String = letters.collect();
        rest = &after[after.len() - left.len()..];
        rest = rest.trim_start();
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_strings() {
        let full = |host: &str, port, user: &str, password: Option<&str>, database: &str| Connection {
            host: host.into(),
            port,
            user: user.into(),
            password: password.map(str::to_owned),
            database: database.into(),
            options: BTreeMap::new(),
        };
        for (text, expected) in [
            ("", full("", 0, "", None, "")),
            ("host=/run port=5433 user=u", full("/run", 5433, "u", None, "")),
            (r"host = a password = 'it\'s here' dbname=d", full("a", 0, "", Some("it's here"), "d")),
            ("postgresql://u:p%40q@[::1]:5433/d", full("::1", 5433, "u", Some("p@q"), "d")),
            ("postgres://h", full("h", 0, "", None, "")),
            ("postgresql://u@h/d?connect_timeout=3", full("h", 0, "u", None, "d")),
        ] {
            assert_eq!(Connection::parse(text), Ok(expected), "{text}");
        }
        let with = Connection::parse("host=h sslmode=require").unwrap();
        assert_eq!(with.options["sslmode"], "require");
        for bad in ["host", "port=x", "host='a", "colour=red", "postgresql://u@h/d?x", "postgres://%zz@h"] {
            assert!(Connection::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_left_out_comes_from_variables() {
        let env = [("PGPORT", "5434"), ("PGUSER", "u"), ("PGSSLMODE", "require"), ("USER", "me")];
        let env = env.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let mut connection = Connection::parse("host=h user=other").unwrap();
        connection.complete(&env);
        assert_eq!(
            (connection.port, connection.user.as_str(), connection.database.as_str()),
            (5434, "other", "postgres")
        );
        assert_eq!(connection.options["sslmode"], "require");
    }
}
