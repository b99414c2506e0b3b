//! Who connects, as libpq finds it out: options, environment, password file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use surus_postgres::Credentials;

/// Environment variables and the keyword each stands for.
const KEYWORDS: [(&str, &str); 6] = [
    ("PGSSLMODE", "sslmode"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLKEY", "sslkey"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLCRL", "sslcrl"),
    ("PGCHANNELBINDING", "channel_binding"),
];

pub struct Identity {
    pub database: String,
    pub options: Option<String>,
    username: String,
    password: Option<String>,
    keywords: BTreeMap<String, String>,
    pgpass: String,
}

impl Identity {
    /// What was given on the command line comes first.
    pub fn new(
        env: &BTreeMap<String, String>,
        username: Option<String>,
        database: Option<String>,
        password: Option<String>,
    ) -> Identity {
        let set = |key: &str| env.get(key).filter(|v| !v.is_empty()).cloned();
        let username = username.or_else(|| set("PGUSER")).or_else(own_name).unwrap_or_else(|| "postgres".to_owned());
        let file = set("PGPASSFILE").or_else(|| Some(format!("{}/.pgpass", set("HOME")?))).map(PathBuf::from);
        Identity {
            database: database.or_else(|| set("PGDATABASE")).unwrap_or_else(|| username.clone()),
            options: set("PGOPTIONS"),
            username,
            password: password.or_else(|| set("PGPASSWORD")),
            keywords: KEYWORDS.iter().filter_map(|(var, key)| Some(((*key).to_owned(), set(var)?))).collect(),
            // As in libpq, a file that cannot be read is as good as none: the server says whether it wanted a password.
            pgpass: file.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default(),
        }
    }

    pub fn credentials(&self, host: &str, port: u16) -> Credentials {
        let port = port.to_string();
        let looked_up = || password_for(&self.pgpass, [host, &port, &self.database, &self.username]);
        Credentials {
            username: self.username.clone(),
            password: self.password.clone().or_else(looked_up),
            options: self.keywords.clone(),
        }
    }
}

/// The name of the user who runs this.
fn own_name() -> Option<String> {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    let mut users = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    users.find(|fields| fields.get(2) == Some(&uid.as_str()))?.first().map(|name| (*name).to_owned())
}

/// The first line of a password file whose fields fit: `host:port:database:user:password`, `*` fits everything.
fn password_for(file: &str, wanted: [&str; 4]) -> Option<String> {
    file.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = fields(line);
        let fits = wanted.iter().zip(&fields).all(|(want, field)| field == "*" || field == want);
        (fits && fields.len() == 5).then(|| fields[4].clone())
    })
}

/// Split at the first four colons that no backslash precedes.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        let field = fields.len();
        let Some(last) = fields.last_mut() else { break };
        match c {
            '\\' => last.extend(chars.next()),
            ':' if field < 5 => fields.push(String::new()),
            c => last.push(c),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_from_the_file() {
        let file = "# h:1:d:u:no\nh:1:d:other:no\nh:1:d\nh:1:*:u:it\\:is\\\\this:one\n*:*:*:*:any\n";
        assert_eq!(password_for(file, ["h", "1", "d", "u"]).as_deref(), Some("it:is\\this:one"));
        assert_eq!(password_for(file, ["h", "2", "d", "u"]).as_deref(), Some("any"));
        assert_eq!(password_for("h:1:d:u:x", ["g", "1", "d", "u"]), None);
    }

    #[test]
    fn options_before_environment_before_defaults() {
        let env = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let all =
            [("PGUSER", "u"), ("PGDATABASE", "d"), ("PGPASSWORD", "p"), ("PGSSLMODE", "disable"), ("HOME", "/no")];
        let who = Identity::new(&env(&all), None, None, None);
        assert_eq!((who.username.as_str(), who.database.as_str()), ("u", "d"));
        let credentials = who.credentials("h", 1);
        assert_eq!(credentials.password.as_deref(), Some("p"));
        assert_eq!(credentials.options["sslmode"], "disable");
        let who = Identity::new(&env(&all), Some("x".into()), Some("y".into()), Some("z".into()));
        assert_eq!((who.username.as_str(), who.database.as_str()), ("x", "y"));
        assert_eq!(who.credentials("h", 1).password.as_deref(), Some("z"));
        assert_eq!(Identity::new(&env(&[("PGUSER", "u")]), None, None, None).database, "u");
    }
}
