//! What the running server is set to.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::Result;
use crate::instance::Instance;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// In `unit`, as `pg_settings` has it.
    pub value: String,
    pub unit: Option<String>,
    pub vartype: String,
    pub context: String,
    pub source: String,
    pub source_file: Option<String>,
    pub pending_restart: bool,
}

impl Instance {
    pub async fn settings(&self, timeout: Duration) -> Result<BTreeMap<String, Setting>> {
        let question =
            "SELECT name, setting, unit, vartype, context, source, sourcefile, pending_restart FROM pg_settings";
        let rows = self.kept_rows(question, Instant::now() + timeout).await?;
        let setting = |mut row: Vec<Option<String>>| {
            let mut take = |i: usize| row.get_mut(i).and_then(Option::take);
            let name = take(0)?;
            let setting = Setting {
                value: take(1).unwrap_or_default(),
                unit: take(2),
                vartype: take(3).unwrap_or_default(),
                context: take(4).unwrap_or_default(),
                source: take(5).unwrap_or_default(),
                source_file: take(6),
                pending_restart: take(7).is_some_and(|v| v == "t"),
            };
            Some((name, setting))
        };
        Ok(rows.into_iter().filter_map(setting).collect())
    }
}
