//! The rows that are lost, beside their receipt: read in single-user mode, which lets nobody in, archives nothing and can
//! acknowledge nothing to anybody.
//!
//! Where a logical slot lies before the fork, a temporary copy of it decodes the changes. Everywhere else, which is nearly
//! everywhere, the records of the heap say where the rows are, and they are read from the tables.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use surus_core::Lsn;
use surus_core::loss::{KeptRows, Receipt, RowSource};
use surus_core::postgres::ControlState;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::files::{ROWS, amend};
use super::touched::{InFile, Kind, Place, Touched};
use crate::disk::{IO_LIMIT, blocking, give_to};
use crate::instance::{Instance, lock};
use crate::{ErrorKind, PgError, Result};

/// A row whose text is longer is told without it.
const ROW: usize = 16 * 1024;
/// Lines of decoded changes.
const CHANGES: usize = 20_000;
/// The file, if the budget for the log leaves as much.
const FILE: u64 = 16 << 20;
const SLOT: &str = "surus_loss_receipt";

/// What a receipt was written about, and where its rows are.
pub(crate) struct Lost {
    /// That of the receipt.
    pub(super) dir: PathBuf,
    pub(super) fork: Lsn,
    pub(super) touched: Touched,
    /// As far as they are known, by their numbers.
    pub(super) databases: BTreeMap<String, String>,
    pub(super) budget: u64,
}

/// What one database said.
#[derive(Default)]
struct Told {
    /// Of tables, by file.
    names: BTreeMap<String, String>,
    rows: Vec<(String, Value)>,
    slot: Option<String>,
    changes: Vec<(String, String)>,
    errors: Vec<String>,
}

impl Instance {
    /// Puts the rows beside the receipt that was written last, within `limit`; in words. The server must be stopped.
    /// `None`: there is none, or it has them. When it is cut short, the server needs crash recovery.
    pub async fn keep_lost_rows(&self, limit: Duration, cancel: &CancellationToken) -> Result<Option<String>> {
        let _exclusive = self.inner.exclusive.lock().await;
        let Some(lost) = lock(&self.inner.lost).take() else { return Ok(None) };
        if let Some(why) = self.unfit_alone().await? {
            self.amend(&lost, KeptRows { notes: vec![why], ..KeptRows::default() }).await?;
            return Ok(None);
        }
        let deadline = Instant::now() + limit;
        let mut out = Out::create(&lost, self.user().await?).await?;
        let mut kept = KeptRows::default();
        let cut = self.read_rows(&lost, &mut out, &mut kept, deadline, cancel).await;
        if let Err(e) = &cut {
            kept.notes.push(format!("reading them was cut short: {e}"));
        }
        if lost.touched.beyond > 0 {
            kept.notes.push(format!("{} more rows were written than are looked up", lost.touched.beyond));
        }
        if out.left_out > 0 {
            kept.notes
                .push(format!("{} are left out, since the file would grow too large (loss.keep_wal)", out.left_out));
        }
        kept.kept = out.lines;
        let said = format!("{} rows are kept in {}", kept.kept, out.path.display());
        out.finish().await?;
        self.amend(&lost, kept.clone()).await?;
        match cut {
            Err(e) if e.kind == ErrorKind::Cancelled => Err(e),
            _ => Ok(Some(kept.notes.iter().fold(said, |said, note| format!("{said}; {note}")))),
        }
    }

    async fn amend(&self, lost: &Lost, rows: KeptRows) -> Result<()> {
        let (dir, user) = (lost.dir.clone(), self.user().await?);
        blocking("amending a loss receipt", IO_LIMIT, move || {
            amend(&dir, |receipt: &mut Receipt| receipt.rows = Some(rows), user.as_ref())
        })
        .await
    }

    /// Why single-user mode would not see the end of this log.
    async fn unfit_alone(&self) -> Result<Option<String>> {
        let state = self.control_data().await?.state;
        let label = self.config().data_dir.join("backup_label");
        let labelled = blocking("looking for backup_label", IO_LIMIT, move || Ok(label.exists())).await?;
        Ok(match state {
            // Its log may go through timelines that recovery without a signal file does not follow.
            ControlState::ShutDownInRecovery | ControlState::InArchiveRecovery => {
                Some("rows are not read from a server that was a standby when it stopped".to_owned())
            }
            _ if labelled => Some("rows are not read in the middle of a backup (backup_label is there)".to_owned()),
            _ => None,
        })
    }

    async fn read_rows(
        &self,
        lost: &Lost,
        out: &mut Out,
        kept: &mut KeptRows,
        deadline: Instant,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let mut of: BTreeMap<&str, BTreeMap<&str, &InFile>> = BTreeMap::new();
        for (file, here) in &lost.touched.files {
            if let Some(database) = file.split('/').nth(1) {
                of.entry(database).or_default().insert(file, here);
            }
        }
        for (number, files) in of {
            // One that was created behind the fork is known here only.
            let name = match lost.databases.get(number) {
                Some(name) => name.clone(),
                None => match self.database_name(number, deadline, cancel).await? {
                    Some(name) => name,
                    None => {
                        kept.notes.push(format!("database {number} is not there any more"));
                        continue;
                    }
                },
            };
            let told = self.ask_alone(&name, &statements(lost, &files), deadline, cancel).await?;
            if !told.errors.is_empty() {
                kept.notes.push(format!("in database {name}: {}", told.errors.join("; ")));
            }
            let decoded = told.slot.clone().filter(|_| !told.changes.is_empty());
            kept.sources.push(RowSource { database: name.clone(), slot: decoded.clone() });
            if decoded.is_some() {
                decoded_lines(lost, &name, &told, out)?;
            } else {
                row_lines(lost, &name, &files, &told, out)?;
            }
        }
        Ok(())
    }

    async fn database_name(&self, number: &str, end: Instant, cancel: &CancellationToken) -> Result<Option<String>> {
        let ask = format!("SELECT datname::text AS database FROM pg_database WHERE oid = {number}");
        let mut name = None;
        self.single_user("template1", &[ask], end, cancel, |key, value| {
            if key == "database" {
                name = Some(value.to_owned());
            }
        })
        .await?;
        Ok(name)
    }

    async fn ask_alone(
        &self,
        database: &str,
        statements: &[String],
        end: Instant,
        cancel: &CancellationToken,
    ) -> Result<Told> {
        let mut told = Told::default();
        let mut longer = 0_u64;
        let errors = self
            .single_user(database, statements, end, cancel, |key, value| {
                let parsed = || serde_json::from_str::<Value>(value).ok();
                match key {
                    "slot" => told.slot = Some(value.to_owned()),
                    "name" => {
                        if let Some((file, name)) = value.split_once(' ') {
                            told.names.insert(file.to_owned(), name.to_owned());
                        }
                    }
                    "change" => match parsed().as_ref().map(|v| (v["xid"].as_str(), v["data"].as_str())) {
                        Some((Some(xid), Some(data))) => told.changes.push((xid.to_owned(), data.to_owned())),
                        _ => longer += 1,
                    },
                    file => match parsed() {
                        Some(row) => told.rows.push((file.replace('_', "/"), row)),
                        None => longer += 1,
                    },
                }
            })
            .await?;
        told.errors = errors;
        if longer > 0 {
            told.errors.push(format!("{longer} rows are too long to be kept"));
        }
        Ok(told)
    }

    /// `line` is given the name and the text of each column that has a value. Returns what went wrong.
    async fn single_user(
        &self,
        database: &str,
        statements: &[String],
        end: Instant,
        cancel: &CancellationToken,
        mut line: impl FnMut(&str, &str),
    ) -> Result<Vec<String>> {
        let left = end.saturating_duration_since(Instant::now());
        let tool = self
            .single_user_tool(&[
                // What goes wrong is read from here, wherever the server's log goes.
                ("log_destination", "stderr"),
                ("logging_collector", "off"),
                ("log_line_prefix", ""),
                ("log_min_error_statement", "panic"),
                ("log_statement", "none"),
            ])
            .await?;
        let quiet = ["SET search_path = ''", "SET default_transaction_read_only = on", "SET statement_timeout = 0"];
        let quiet = quiet.iter().map(|s| (*s).to_owned());
        let script: String = quiet.chain(statements.iter().cloned()).map(|s| s + "\n").collect();
        let output = tool
            .arg(database)
            .input(script.into_bytes())
            .run_reading(Some(left), Some(cancel), |text| {
                if let Some((key, value)) = column(text) {
                    line(key, value);
                }
            })
            .await?;
        let errors = output.stderr.lines().filter_map(|l| l.split_once("ERROR:").map(|(_, e)| e.trim().to_owned()));
        let errors = errors.collect();
        output.success("reading rows in single-user mode")?;
        Ok(errors)
    }
}

/// `	 1: name = "value"	(typeid = 25, ...)`. One whose end is missing was too long to be read.
fn column(line: &str) -> Option<(&str, &str)> {
    let (key, rest) = line.trim_start().strip_prefix("1: ")?.split_once(" = \"")?;
    Some((key, rest.rsplit_once("\"\t(typeid").map_or("", |(value, _)| value)))
}

/// Each on one line.
fn statements(lost: &Lost, files: &BTreeMap<&str, &InFile>) -> Vec<String> {
    let parts = |file: &str| -> Option<(u32, u32)> {
        let mut parts = file.split('/');
        Some((parts.next()?.parse().ok()?, parts.nth(1)?.parse().ok()?))
    };
    let fork = lost.fork;
    let mut all = vec![
        format!(
            "SELECT s.slot_name::text AS slot FROM (SELECT slot_name FROM pg_replication_slots WHERE slot_type = 'logical' \
             AND database = current_database() AND restart_lsn IS NOT NULL AND confirmed_flush_lsn <= '{fork}' AND NOT \
             temporary ORDER BY confirmed_flush_lsn DESC LIMIT 1) s, LATERAL \
             pg_copy_logical_replication_slot(s.slot_name, '{SLOT}', true, 'test_decoding') c"
        ),
        format!(
            "WITH c AS MATERIALIZED (SELECT row_number() OVER () AS n, d.* FROM (SELECT slot_name FROM \
             pg_replication_slots WHERE slot_name = '{SLOT}' AND temporary) s, LATERAL \
             pg_logical_slot_peek_changes(s.slot_name, NULL, NULL, 'skip-empty-xacts', 'on') d) \
             SELECT json_build_object('xid', xid::text, 'data', data)::text AS change FROM c \
             WHERE data NOT LIKE 'BEGIN %' AND data NOT LIKE 'COMMIT %' \
             AND xid IN (SELECT xid FROM c WHERE data LIKE 'COMMIT %' AND lsn > '{fork}') ORDER BY n LIMIT {CHANGES}"
        ),
    ];
    for (file, here) in files {
        let Some((space, number)) = parts(file) else { continue };
        let relation = format!(
            "(SELECT oid::regclass AS rel FROM pg_class WHERE oid = pg_filenode_relation({space}, {number}) AND relkind = \
             'r') k"
        );
        all.push(format!("SELECT '{file} ' || rel::text AS name FROM {relation}"));
        let places: Vec<String> = here.places().map(|(page, row)| format!("\"({page},{row})\"")).collect();
        if places.is_empty() {
            continue;
        }
        let xids: Vec<String> = lost.touched.xids.keys().map(u32::to_string).collect();
        // There is no other way to run a statement whose table is not known when it is written; its text goes through XML. A
        // column of type json keeps its line breaks, which mean nothing there.
        all.push(format!(
            "SELECT replace(e.value::text, E'\\n', ' ') AS \"{column}\" FROM {relation}, LATERAL json_array_elements(\
             replace(replace(replace(replace(substring(query_to_xml(format('SELECT json_agg(surus_row) AS j FROM (SELECT \
             c, x, CASE WHEN octet_length(j::text) <= {ROW} THEN j END AS r FROM (SELECT ctid::text AS c, xmin::text AS x, \
             row_to_json(surus_table) AS j FROM %s surus_table WHERE ctid = ANY (%L::tid[]) AND xmin::text = ANY \
             (%L::text[])) surus_rows) surus_row', rel, '{{{places}}}', '{{{xids}}}'), true, false, '')::text from \
             '<j>(.*)</j>'), '&#x0d;', ' '), '&lt;', '<'), '&gt;', '>'), '&amp;', '&')::json) e",
            places = places.join(","),
            xids = xids.join(","),
            column = file.replace('/', "_"),
        ));
    }
    all
}

fn decoded_lines(lost: &Lost, database: &str, told: &Told, out: &mut Out) -> Result<()> {
    for (xid, change) in &told.changes {
        let number = xid.parse::<u32>().unwrap_or_default();
        let at = lost.touched.xids.get(&number).map(|(_, at)| at);
        out.line(&json!({"database": database, "xid": number, "at": at, "change": change}))?;
    }
    Ok(())
}

fn row_lines(lost: &Lost, database: &str, files: &BTreeMap<&str, &InFile>, told: &Told, out: &mut Out) -> Result<()> {
    for (file, row) in &told.rows {
        let Some(place) = row["c"].as_str().and_then(place) else { continue };
        let Some((xid, at)) = row["x"].as_str().and_then(|x| lost.touched.xids.get(&x.parse().ok()?)) else { continue };
        let was = match files.get(file.as_str()).and_then(|here| here.rows.get(&place)) {
            Some(Kind::Updated(was)) => Some(ctid(*was)),
            Some(Kind::Inserted) | None => None,
        };
        let what = if was.is_some() { "update" } else { "insert" };
        let mut line = json!({
            "database": database, "table": told.names.get(file), "xid": xid, "at": at, "what": what, "row": row["r"],
        });
        if let Some(was) = was {
            line["was_at"] = was.into();
        }
        if row["r"].is_null() {
            line["note"] = format!("longer than {ROW} bytes").into();
        }
        out.line(&line)?;
    }
    for (file, here) in files {
        let Some(name) = told.names.get(*file) else { continue };
        for (was, xid) in &here.deleted {
            let at = lost.touched.xids.get(xid).map(|(_, at)| at);
            out.line(&json!({
                "database": database, "table": name, "xid": xid, "at": at, "what": "delete", "was_at": ctid(*was),
            }))?;
        }
    }
    Ok(())
}

fn ctid((page, row): Place) -> String {
    format!("({page},{row})")
}

fn place(ctid: &str) -> Option<Place> {
    let (page, row) = ctid.strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
    Some((page.parse().ok()?, row.parse().ok()?))
}

struct Out {
    path: PathBuf,
    file: BufWriter<File>,
    budget: u64,
    lines: u64,
    left_out: u64,
}

impl Out {
    async fn create(lost: &Lost, user: Option<crate::os_user::OsUser>) -> Result<Out> {
        let (path, budget) = (lost.dir.join(ROWS), lost.budget.min(FILE));
        blocking("creating the file for lost rows", IO_LIMIT, move || {
            // What is in it is nobody else's business.
            let mut options = File::options();
            std::os::unix::fs::OpenOptionsExt::mode(options.write(true).create(true).truncate(true), 0o600);
            let file = options.open(&path).map_err(|e| PgError::io("create", &path, &e))?;
            give_to(&path, user.as_ref())?;
            Ok(Out { path, file: BufWriter::new(file), budget, lines: 0, left_out: 0 })
        })
        .await
    }

    fn line(&mut self, line: &Value) -> Result<()> {
        let text = format!("{line}\n");
        match self.budget.checked_sub(text.len() as u64) {
            Some(left) if self.left_out == 0 => {
                self.file.write_all(text.as_bytes()).map_err(|e| PgError::io("write", &self.path, &e))?;
                (self.budget, self.lines) = (left, self.lines + 1);
            }
            _ => self.left_out += 1,
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<()> {
        blocking("writing lost rows", IO_LIMIT, move || {
            let written = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
            written.map_err(|e| PgError::io("write", &self.path, &e))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_single_user_server_prints() {
        for (line, want) in [
            (
                "\t 1: slot = \"a = \"b\"\"\t(typeid = 25, len = -1, typmod = -1, byval = f)",
                Some(("slot", "a = \"b\"")),
            ),
            ("backend> \t 1: slot\t(typeid = 25, len = -1, typmod = -1, byval = f)", None),
            ("\t 1: 1663_5_16384 = \"{\"c\":", Some(("1663_5_16384", ""))),
            ("\t----", None),
        ] {
            assert_eq!(column(line), want);
        }
        assert_eq!(place("(7,12)"), Some((7, 12)));
    }
}
