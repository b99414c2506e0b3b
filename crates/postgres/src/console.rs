//! SQL that a person typed: any statements, the answer as text, with what kind of value each column holds.

use std::time::Duration;

use surus_core::cluster::Upstream;
use tokio::time::Instant;
use tokio_postgres::types::Type;
use tokio_postgres::{SimpleQueryMessage, Statement};

use crate::Result;
use crate::config::Credentials;
use crate::sql::{Endpoint, Profile, Row, Session, sql_error};

const ASKED: Duration = Duration::from_secs(5);

/// What a column holds, as far as other formats than text tell it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Integer,
    Float,
    Json,
    Text,
}

/// What the last statement that gives rows gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub columns: Vec<(String, Kind)>,
    pub rows: Vec<Row>,
}

/// A session with the server's own settings.
pub struct Console {
    session: Session,
}

impl Console {
    /// `options`: settings of the session as in `PGOPTIONS`.
    pub async fn connect(
        to: &Upstream,
        credentials: &Credentials,
        database: &str,
        options: Option<String>,
        deadline: Instant,
    ) -> Result<Console> {
        let profile = Profile {
            application_name: "Surus ctl",
            options: Some(options.unwrap_or_default()),
            statement_timeout: Duration::ZERO,
            read_write: false,
        };
        let session = Session::connect(&Endpoint::from(to), credentials, database, &profile, deadline).await?;
        Ok(Console { session })
    }

    pub fn is_closed(&self) -> bool {
        self.session.is_closed()
    }

    pub async fn in_recovery(&self) -> Result<bool> {
        let rows = self.session.rows("SELECT pg_catalog.pg_is_in_recovery()", Instant::now() + ASKED).await?;
        Ok(rows.first().and_then(|row| row.first()?.as_deref()) == Some("t"))
    }

    /// Without a limit: how long a query may take is for the one who asks it. `None`: it gives no rows.
    pub async fn run(&self, sql: &str) -> Result<Option<Table>> {
        let client = self.session.client();
        // Only a prepared statement tells the types of its columns, and several statements cannot be prepared at once;
        // a statement that cannot be prepared for another reason says why again when it is run.
        let kinds: Vec<Kind> = match client.prepare(sql).await {
            Ok(statement) => kinds(&statement),
            Err(_) => Vec::new(),
        };
        let messages = client.simple_query(sql).await.map_err(|e| sql_error("the query failed", &e))?;
        let mut table: Option<Table> = None;
        for message in messages {
            match message {
                SimpleQueryMessage::RowDescription(columns) => {
                    let column = |(i, c): (usize, &tokio_postgres::SimpleColumn)| {
                        (c.name().to_owned(), kinds.get(i).copied().unwrap_or(Kind::Text))
                    };
                    table = Some(Table { columns: columns.iter().enumerate().map(column).collect(), rows: Vec::new() });
                }
                SimpleQueryMessage::Row(row) => {
                    if let Some(table) = &mut table {
                        table.rows.push((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect());
                    }
                }
                _ => {}
            }
        }
        Ok(table)
    }
}

fn kinds(statement: &Statement) -> Vec<Kind> {
    let kind = |of: &Type| match *of {
        Type::BOOL => Kind::Bool,
        Type::INT2 | Type::INT4 | Type::INT8 | Type::OID => Kind::Integer,
        Type::FLOAT4 | Type::FLOAT8 => Kind::Float,
        Type::JSON | Type::JSONB => Kind::Json,
        _ => Kind::Text,
    };
    statement.columns().iter().map(|c| kind(c.type_())).collect()
}
