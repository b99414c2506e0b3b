//! What the data directory is.

use std::fs;
use std::io;
use std::path::Path;

use surus_core::postgres::{ControlData, DataDir};

use crate::control::parse_controldata;
use crate::disk::{IO_LIMIT, blocking};
use crate::instance::{Instance, PROBE_LIMIT};
use crate::staging::{Content, content, unmarked_content};
use crate::version::{major_text, parse_pg_version};
use crate::{ErrorKind, PgError, Result};

enum Look {
    Empty,
    Cluster { major: u32, standby_signal: bool },
    Foreign(String),
}

impl Instance {
    pub async fn data_dir(&self) -> DataDir {
        self.data_dir_as(content).await
    }

    /// What is in a directory that is not whole yet as well.
    pub(crate) async fn unfinished_data_dir(&self) -> DataDir {
        self.data_dir_as(unmarked_content).await
    }

    async fn data_dir_as(&self, content: fn(&Path) -> io::Result<Content>) -> DataDir {
        let config = self.config();
        let dir = config.data_dir.clone();
        let what = format!("looking at {}", dir.display());
        let look = blocking(&what, IO_LIMIT, move || look(&dir, content).map_err(|e| PgError::io("look at", &dir, &e)));
        let (major_version, standby_signal) = match look.await {
            Ok(Look::Empty) => return DataDir::Empty,
            Ok(Look::Foreign(why)) => return DataDir::Foreign(why),
            Ok(Look::Cluster { major, standby_signal }) => (major, standby_signal),
            Err(e) => return DataDir::Unreadable(e.to_string()),
        };
        match self.binaries_version().await {
            Ok(version) if version / 10_000 != major_version / 10_000 => {
                return DataDir::Foreign(format!(
                    "{} was made by PostgreSQL {}, but the programs in {} are version {}; point postgresql.bin_dir to \
                     version {0} or upgrade the data directory with pg_upgrade",
                    config.data_dir.display(),
                    major_text(major_version),
                    config.bin_dir.as_ref().map_or_else(|| "PATH".to_owned(), |d| d.display().to_string()),
                    major_text(version),
                ));
            }
            Ok(_) => {}
            Err(e) => return DataDir::Unreadable(e.to_string()),
        }
        match self.control_data().await {
            Ok(control) => DataDir::Present { major_version, standby_signal, control },
            Err(e) => DataDir::Unreadable(e.to_string()),
        }
    }

    pub(crate) async fn controldata_text(&self) -> Result<String> {
        let dir = self.config().data_dir.clone();
        let tool = self.tool("pg_controldata").await?.arg(&dir);
        let output = tool.run(Some(PROBE_LIMIT), None).await?;
        Ok(output.success(&format!("pg_controldata {}", dir.display()))?.stdout)
    }

    pub(crate) async fn control_data(&self) -> Result<ControlData> {
        parse_controldata(&self.controldata_text().await?).map_err(|e| PgError::new(ErrorKind::Tool, e))
    }

    /// Major version of the data directory.
    pub(crate) async fn major_version(&self) -> Result<u32> {
        let file = self.config().data_dir.join("PG_VERSION");
        let text = blocking("reading PG_VERSION", IO_LIMIT, move || {
            fs::read_to_string(&file).map_err(|e| PgError::io("read", &file, &e))
        });
        let text = text.await?;
        parse_pg_version(&text).ok_or_else(|| {
            PgError::new(ErrorKind::Refused, format!("PG_VERSION holds \"{}\", which is no version", text.trim()))
        })
    }
}

fn look(dir: &Path, content: fn(&Path) -> io::Result<Content>) -> io::Result<Look> {
    match fs::metadata(dir) {
        Ok(meta) if !meta.is_dir() => {
            return Ok(Look::Foreign(format!("{} is a file; a directory is needed there", dir.display())));
        }
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Look::Empty),
        Err(e) => return Err(e),
    }
    let names = match content(dir)? {
        Content::Empty => return Ok(Look::Empty),
        Content::Unfinished => {
            tracing::debug!(dir = %dir.display(), "holds what is not whole yet and counts as empty");
            return Ok(Look::Empty);
        }
        Content::Something(names) => names,
    };
    let foreign = |why: &str| {
        let some: Vec<&str> = names.iter().take(4).map(String::as_str).collect();
        Ok(Look::Foreign(format!(
            "{} {why} (it holds {}{}); move its content away or choose another postgresql.data_dir",
            dir.display(),
            some.join(", "),
            if names.len() > some.len() { ", ..." } else { "" },
        )))
    };
    let version = match fs::read_to_string(dir.join("PG_VERSION")) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return foreign("is not empty and no PostgreSQL cluster");
        }
        Err(e) => return Err(e),
    };
    let Some(major) = parse_pg_version(&version) else {
        return foreign("has a PG_VERSION that is no version");
    };
    if !dir.join("global/pg_control").try_exists()? {
        return foreign("is a damaged PostgreSQL cluster: global/pg_control is missing");
    }
    Ok(Look::Cluster { major, standby_signal: dir.join("standby.signal").try_exists()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("data");
        assert!(matches!(look(&dir, content).unwrap(), Look::Empty));
        fs::create_dir(&dir).unwrap();
        fs::create_dir(dir.join("lost+found")).unwrap();
        fs::write(dir.join(".x"), "").unwrap();
        assert!(matches!(look(&dir, content).unwrap(), Look::Empty));
        fs::write(dir.join("holiday.jpg"), "").unwrap();
        assert!(matches!(look(&dir, content).unwrap(), Look::Foreign(why) if why.contains("holiday.jpg")));
        fs::write(dir.join("PG_VERSION"), "fifteen").unwrap();
        assert!(matches!(look(&dir, content).unwrap(), Look::Foreign(why) if why.contains("PG_VERSION")));
        fs::write(dir.join("PG_VERSION"), "15\n").unwrap();
        assert!(matches!(look(&dir, content).unwrap(), Look::Foreign(why) if why.contains("pg_control")));
        fs::create_dir(dir.join("global")).unwrap();
        fs::write(dir.join("global/pg_control"), "").unwrap();
        assert!(matches!(look(&dir, content).unwrap(), Look::Cluster { major: 150_000, standby_signal: false }));
        assert!(matches!(look(&dir.join("PG_VERSION"), content).unwrap(), Look::Foreign(_)));
    }
}
