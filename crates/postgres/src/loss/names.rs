//! What files are called, asked of the server whose history counts: it has every relation that is older than the fork.

use std::collections::BTreeMap;
use std::time::Duration;

use surus_core::cluster::Upstream;
use surus_core::loss::TableLoss;
use tokio::time::Instant;

use crate::Result;
use crate::instance::Instance;
use crate::sql::{Endpoint, Profile, Session};

/// For all databases together: nobody waits long for names.
const LIMIT: Duration = Duration::from_secs(5);

impl Instance {
    /// Fills in names, as far as they are to be had; what stands in the way of the others is returned.
    pub(super) async fn name_tables(
        &self,
        upstream: &Upstream,
        tables: &mut [TableLoss],
        created: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        let deadline = Instant::now() + LIMIT;
        let mut notes = vec![];
        let databases =
            match self.ask(upstream, &self.config().database, "SELECT oid, datname FROM pg_database", deadline).await {
                Ok(rows) => pairs(rows),
                Err(e) => return vec![format!("tables could not be named: {e}")],
            };
        for (oid, name) in databases {
            let inside = format!("/{oid}/");
            let mut here: Vec<&mut TableLoss> = tables.iter_mut().filter(|t| t.file.contains(&inside)).collect();
            if here.is_empty() {
                continue;
            }
            here.iter_mut().for_each(|t| t.database = Some(name.clone()));
            let sql = "SELECT pg_relation_filenode(c.oid), coalesce(o.oid, c.oid)::regclass::text \
                       || CASE WHEN o.oid IS NULL THEN '' ELSE ' (TOAST)' END \
                       FROM pg_class c LEFT JOIN pg_class o ON o.reltoastrelid = c.oid \
                       WHERE c.relkind IN ('r', 'm', 't')";
            match self.ask(upstream, &name, sql, deadline).await {
                Ok(rows) => {
                    let names: BTreeMap<String, String> = pairs(rows).into_iter().collect();
                    for table in here {
                        let file = table.file.rsplit('/').next().unwrap_or_default();
                        // A number that was given after the fork means another relation there.
                        table.table = names.get(file).filter(|_| !created(&table.file)).cloned();
                    }
                }
                Err(e) => notes.push(format!("tables of database {name} could not be named: {e}")),
            }
        }
        notes
    }

    async fn ask(
        &self,
        upstream: &Upstream,
        database: &str,
        sql: &str,
        deadline: Instant,
    ) -> Result<Vec<Vec<Option<String>>>> {
        let config = self.config();
        let to = Endpoint::from(upstream);
        let session =
            Session::connect(&to, config.rewind_credentials(), database, &Profile::HEARTBEAT, deadline).await?;
        session.rows(sql, deadline).await
    }
}

fn pairs(rows: Vec<Vec<Option<String>>>) -> Vec<(String, String)> {
    let pair = |row: Vec<Option<String>>| {
        let mut cells = row.into_iter();
        Some((cells.next()??, cells.next()??))
    };
    rows.into_iter().filter_map(pair).collect()
}
