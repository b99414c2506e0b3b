//! Values as the formats write them: as text like a script of Python would, since that is what others parse.

use serde_json::{Map, Number, Value};
use surus_postgres::{Kind, Table};

use crate::cli::Format;
use crate::failure::Outcome;
use crate::table;
use crate::terminal::Terminal;

pub fn print(terminal: &mut Terminal, format: Format, delimiter: &str, answer: &Table) -> Outcome {
    let names: Vec<&str> = answer.columns.iter().map(|(name, _)| name.as_str()).collect();
    let cells = |row: &Vec<Option<String>>| -> Vec<String> {
        row.iter().zip(&answer.columns).map(|(value, (_, kind))| text(value.as_deref(), *kind)).collect()
    };
    match format {
        Format::Pretty => {
            terminal.write(&table::draw(None, &names, &answer.rows.iter().map(cells).collect::<Vec<_>>()))
        }
        Format::Tsv => {
            let mut out = names.join(delimiter) + "\n";
            for row in &answer.rows {
                out.push_str(&(cells(row).join(delimiter) + "\n"));
            }
            terminal.write(&out)
        }
        Format::Json | Format::Yaml => {
            let object = |row: &Vec<Option<String>>| {
                let fields = row.iter().zip(&answer.columns);
                Value::Object(
                    fields.map(|(v, (name, kind))| (name.clone(), json(v.as_deref(), *kind))).collect::<Map<_, _>>(),
                )
            };
            table::objects_out(terminal, format, &Value::Array(answer.rows.iter().map(object).collect()))
        }
    }
}

fn text(value: Option<&str>, kind: Kind) -> String {
    let Some(value) = value else { return "None".to_owned() };
    match (kind, value) {
        (Kind::Bool, "t") => "True".to_owned(),
        (Kind::Bool, "f") => "False".to_owned(),
        (Kind::Float, "NaN") => "nan".to_owned(),
        (Kind::Float, "Infinity") => "inf".to_owned(),
        (Kind::Float, "-Infinity") => "-inf".to_owned(),
        (Kind::Float, whole) if whole.bytes().all(|b| b.is_ascii_digit() || b == b'-') => format!("{whole}.0"),
        _ => value.to_owned(),
    }
}

fn json(value: Option<&str>, kind: Kind) -> Value {
    let Some(value) = value else { return Value::Null };
    let parsed = match kind {
        Kind::Bool => Some(Value::Bool(value == "t")),
        Kind::Integer => value.parse::<i64>().ok().map(Value::from),
        Kind::Float => value.parse().ok().and_then(Number::from_f64).map(Value::Number),
        Kind::Json => serde_json::from_str(value).ok(),
        Kind::Text => None,
    };
    parsed.unwrap_or_else(|| value.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::Captured;

    #[test]
    fn every_kind_in_every_format() {
        let columns = [
            ("i", Kind::Integer, Some("1")),
            ("yes", Kind::Bool, Some("t")),
            ("none", Kind::Text, None),
            ("f", Kind::Float, Some("2")),
            ("nan", Kind::Float, Some("NaN")),
            ("j", Kind::Json, Some(r#"{"x": [1]}"#)),
            ("t", Kind::Text, Some("5")),
        ];
        let answer = Table {
            columns: columns.iter().map(|(name, kind, _)| ((*name).to_owned(), *kind)).collect(),
            rows: vec![columns.iter().map(|(_, _, value)| value.map(str::to_owned)).collect()],
        };
        let print = |format, delimiter| {
            let out = Captured::default();
            super::print(&mut out.terminal(""), format, delimiter, &answer).unwrap();
            out.text()
        };
        assert_eq!(print(Format::Tsv, ","), "i,yes,none,f,nan,j,t\n1,True,None,2.0,nan,{\"x\": [1]},5\n");
        assert!(print(Format::Pretty, "").contains("| 1 | True | None | 2.0 | nan | {\"x\": [1]} | 5 |"));
        assert_eq!(
            print(Format::Json, ""),
            "[{\"i\": 1, \"yes\": true, \"none\": null, \"f\": 2.0, \"nan\": \"NaN\", \"j\": {\"x\": [1]}, \"t\": \"5\"}]\n"
        );
        assert!(print(Format::Yaml, "").contains("- f: 2.0\n"));
    }
}
