//! The rows that are lost, beside their receipt: read in single-user mode, which lets nobody in, archives nothing and can
//! acknowledge nothing to anybody.
//!
//! Where a logical slot lies before the fork, a temporary copy of it decodes the changes. Everywhere else, which is nearly
//! everywhere, the records of the heap say where the rows are, and they are read from the tables.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use surus_core::loss::{KeptRows, Receipt, RowSource};
use surus_core::{Lsn, Timeline};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::files::{ROWS, amend};
use super::touched::{InFile, Kind, Place, Touched};
use crate::disk::{IO_LIMIT, blocking, replace_file};
use crate::divergence::last_timeline;
use crate::instance::{Instance, lock};
use crate::{ErrorKind, Result};

/// A row whose text is longer is told without it.
const ROW: usize = 16 * 1024;
/// Lines of decoded changes.
const CHANGES: usize = 20_000;
/// The file, if the budget for the log leaves as much. It is made in memory, since the disk must not hold up whoever reads.
const FILE: u64 = 4 << 20;
const SLOT: &str = "surus_loss_receipt";

/// What a receipt was written about, and where its rows are.
pub(crate) struct Lost {
    /// That of the receipt.
    pub(super) dir: PathBuf,
    pub(super) fork: Lsn,
    /// The last one of the log.
    pub(super) timeline: Timeline,
    pub(super) touched: Touched,
    /// As far as they are known, by their numbers.
    pub(super) databases: BTreeMap<String, String>,
    pub(super) budget: u64,
}

/// Takes what one database says.
struct Reader<'a> {
    lost: &'a Lost,
    database: &'a str,
    files: &'a BTreeMap<&'a str, &'a InFile>,
    out: &'a mut Out,
    /// Of tables, by file.
    names: BTreeMap<String, String>,
    slot: Option<String>,
    /// The slot had something to tell, so that nothing else is asked.
    decoded: bool,
    too_long: u64,
}

impl Instance {
    /// Puts the rows beside the receipt that was written last, within `limit`; in words. The server must be stopped.
    /// `None`: there is none, or it has them. When it is cut short, the server needs crash recovery.
    pub async fn keep_lost_rows(&self, limit: Duration, cancel: &CancellationToken) -> Result<Option<String>> {
        let _exclusive = self.inner.exclusive.lock().await;
        let Some(lost) = lock(&self.inner.lost).take() else { return Ok(None) };
        if let Some(why) = self.unfit_alone(&lost).await? {
            self.amend(&lost, KeptRows { notes: vec![why], ..KeptRows::default() }).await?;
            return Ok(None);
        }
        let deadline = Instant::now() + limit;
        let mut out = Out { budget: lost.budget.min(FILE), ..Out::default() };
        let mut kept = KeptRows::default();
        let cut = self.read_rows(&lost, &mut out, &mut kept, deadline, cancel).await;
        if let Err(e) = &cut {
            if e.kind == ErrorKind::Cancelled {
                // The next attempt reads them.
                return cut.map(|()| None);
            }
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
        let path = lost.dir.join(ROWS);
        let said = format!("{} rows are kept in {}", kept.kept, path.display());
        let user = self.user().await?;
        blocking("writing lost rows", IO_LIMIT, move || {
            // What is in it is nobody else's business.
            replace_file(&path, &out.text, 0o600, user.as_ref()).map(drop)
        })
        .await?;
        self.amend(&lost, kept.clone()).await?;
        Ok(Some(kept.notes.iter().fold(said, |said, note| format!("{said}; {note}"))))
    }

    async fn amend(&self, lost: &Lost, rows: KeptRows) -> Result<()> {
        let (dir, user) = (lost.dir.clone(), self.user().await?);
        blocking("amending a loss receipt", IO_LIMIT, move || {
            amend(&dir, |receipt: &mut Receipt| receipt.rows = Some(rows), user.as_ref())
        })
        .await
    }

    /// Why single-user mode would not see the end of this log.
    async fn unfit_alone(&self, lost: &Lost) -> Result<Option<String>> {
        let control = self.control_data().await?;
        let label = self.config().data_dir.join("backup_label");
        let labelled = blocking("looking for backup_label", IO_LIMIT, move || Ok(label.exists())).await?;
        // Without a signal file recovery goes to the last timeline that the control file knows.
        Ok(if labelled {
            Some("rows are not read in the middle of a backup (backup_label is there)".to_owned())
        } else if last_timeline(&control) == lost.timeline {
            None
        } else {
            Some(format!("rows are not read where the log goes on to another timeline ({})", lost.timeline))
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
            let mut reader = Reader {
                lost,
                database: &name,
                files: &files,
                out,
                names: BTreeMap::new(),
                slot: None,
                decoded: false,
                too_long: 0,
            };
            let script = statements(lost, &files);
            let mut errors =
                self.single_user(&name, &script, deadline, cancel, |key, value| reader.take(key, value)).await?;
            reader.deleted();
            if reader.too_long > 0 {
                errors.push(format!("{} rows are too long to be kept", reader.too_long));
            }
            let slot = reader.slot.filter(|_| reader.decoded);
            kept.sources.push(RowSource { database: name.clone(), slot });
            if !errors.is_empty() {
                kept.notes.push(format!("in database {name}: {}", errors.join("; ")));
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

/// `     1: name = "value"    (typeid = 25, ...)`. One whose end is missing was too long to be read.
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
        let xids: Vec<String> = here.xids.iter().map(u32::to_string).collect();
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

impl Reader<'_> {
    fn take(&mut self, key: &str, value: &str) {
        match key {
            "slot" => self.slot = Some(value.to_owned()),
            "name" => {
                if let Some((file, name)) = value.split_once(' ') {
                    self.names.insert(file.to_owned(), name.to_owned());
                }
            }
            "change" => self.change(value),
            _ if self.decoded => {}
            file => self.row(&file.replace('_', "/"), value),
        }
    }

    fn change(&mut self, value: &str) {
        self.decoded = true;
        let parsed = serde_json::from_str::<Value>(value).unwrap_or_default();
        let (Some(xid), Some(change)) = (parsed["xid"].as_str().and_then(|x| x.parse().ok()), parsed["data"].as_str())
        else {
            self.too_long += 1;
            return;
        };
        let at = self.committed_at(xid);
        self.out.line(&json!({"database": self.database, "xid": xid, "at": at, "change": change}));
    }

    fn row(&mut self, file: &str, value: &str) {
        let Ok(parsed) = serde_json::from_str::<Value>(value) else {
            self.too_long += 1;
            return;
        };
        let Some(place) = parsed["c"].as_str().and_then(place) else { return };
        let xid = parsed["x"].as_str().and_then(|x| x.parse::<u32>().ok());
        let Some((xid, at)) = xid.and_then(|x| self.lost.touched.xids.get(&x)) else { return };
        let was = match self.files.get(file).and_then(|here| here.rows.get(&place)) {
            Some(Kind::Updated(was)) => Some(ctid(*was)),
            Some(Kind::Inserted) | None => None,
        };
        let what = if was.is_some() { "update" } else { "insert" };
        let mut line = json!({
            "database": self.database, "table": self.names.get(file), "xid": xid, "at": at, "what": what,
            "row": parsed["r"],
        });
        if let Some(was) = was {
            line["was_at"] = was.into();
        }
        if parsed["r"].is_null() {
            line["note"] = format!("longer than {ROW} bytes").into();
        }
        self.out.line(&line);
    }

    fn deleted(&mut self) {
        let files = self.files.iter().filter(|_| !self.decoded);
        for (file, here) in files {
            let Some(name) = self.names.get(*file) else { continue };
            for (was, xid) in &here.deleted {
                let at = self.committed_at(*xid);
                self.out.line(&json!({
                    "database": self.database, "table": name, "xid": xid, "at": at, "what": "delete", "was_at": ctid(*was),
                }));
            }
        }
    }

    fn committed_at(&self, xid: u32) -> Option<&str> {
        self.lost.touched.xids.get(&xid).map(|(_, at)| at.as_str())
    }
}

fn ctid((page, row): Place) -> String {
    format!("({page},{row})")
}

fn place(ctid: &str) -> Option<Place> {
    let (page, row) = ctid.strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
    Some((page.parse().ok()?, row.parse().ok()?))
}

#[derive(Default)]
struct Out {
    text: String,
    budget: u64,
    lines: u64,
    left_out: u64,
}

impl Out {
    fn line(&mut self, line: &Value) {
        let line = format!("{line}\n");
        match self.budget.checked_sub(line.len() as u64) {
            Some(left) if self.left_out == 0 => {
                self.text.push_str(&line);
                (self.budget, self.lines) = (left, self.lines + 1);
            }
            _ => self.left_out += 1,
        }
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
