//! Tables the way `patronictl` draws them (`spec/cli.md §1.9`), and the same rows for programs.

use serde_json::{Map, Value};
use surus_api::to_python_json;

use crate::cli::Format;
use crate::failure::{OrFail, Outcome};
use crate::terminal::Terminal;
use crate::yaml;

const RIGHT: [&str; 7] = ["Group", "TL", "LSN", "Receive LSN", "Replay LSN", "Lag", "Log index"];

/// Draws a box. `title` replaces the beginning of the upper border.
pub fn draw(title: Option<&str>, columns: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(i, header)| {
            let cells = rows.iter().filter_map(|row| row.get(i)).flat_map(|cell| cell.lines());
            cells.chain([*header]).map(width).max().unwrap_or(0)
        })
        .collect();
    let rule: String = std::iter::once("+".to_owned()).chain(widths.iter().map(|w| "-".repeat(w + 2) + "+")).collect();
    let mut out = match title {
        Some(title) => titled(&rule, title),
        None => rule.clone(),
    };
    out.push('\n');
    let header: Vec<String> = columns.iter().map(|c| (*c).to_owned()).collect();
    draw_row(&mut out, columns, &widths, &header);
    out.push_str(&rule);
    out.push('\n');
    let several_lines = rows.iter().flatten().any(|cell| cell.contains('\n'));
    for (i, row) in rows.iter().enumerate() {
        draw_row(&mut out, columns, &widths, row);
        if several_lines && i + 1 < rows.len() {
            out.push_str(&rule);
            out.push('\n');
        }
    }
    out.push_str(&rule);
    out.push('\n');
    out
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// The title from the second column on, cut so that at least the last two characters of the border stay.
fn titled(rule: &str, title: &str) -> String {
    let fits = rule.len().saturating_sub(2);
    let text: String = format!(" {title} ").chars().take(fits).collect();
    let kept: String = rule.chars().skip(1 + width(&text)).collect();
    format!("+{text}{kept}")
}

fn draw_row(out: &mut String, columns: &[&str], widths: &[usize], row: &[String]) {
    let height = row.iter().map(|cell| cell.lines().count()).max().unwrap_or(1).max(1);
    for line in 0..height {
        out.push('|');
        for (i, column) in columns.iter().enumerate() {
            let text = row.get(i).and_then(|cell| cell.lines().nth(line)).unwrap_or("");
            let fill = " ".repeat(widths[i].saturating_sub(width(text)));
            if RIGHT.contains(column) {
                out.push_str(&format!(" {fill}{text} |"));
            } else {
                out.push_str(&format!(" {text}{fill} |"));
            }
        }
        out.push('\n');
    }
}

/// A cell as text: nothing for null, no quotes around strings.
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

/// A plain table in the format asked for. `omit_empty` leaves empty cells out of the objects.
pub fn print(
    terminal: &mut Terminal,
    format: Format,
    columns: &[&str],
    rows: &[Vec<Value>],
    omit_empty: bool,
) -> Outcome {
    match format {
        Format::Pretty => {
            let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(text).collect()).collect();
            terminal.write(&draw(None, columns, &rows))
        }
        Format::Tsv => terminal.write(&tsv(columns, rows.iter().map(|row| row.iter().map(text).collect()))),
        Format::Json | Format::Yaml => {
            let objects: Vec<Value> = rows
                .iter()
                .map(|row| {
                    let fields = columns.iter().zip(row).filter(|(_, v)| !omit_empty || !text(v).is_empty());
                    Value::Object(fields.map(|(c, v)| ((*c).to_owned(), v.clone())).collect::<Map<_, _>>())
                })
                .collect();
            objects_out(terminal, format, &Value::Array(objects))
        }
    }
}

pub fn tsv(columns: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let header = columns.join("\t") + "\n";
    rows.fold(header, |out, row| out + &row.join("\t") + "\n")
}

pub fn objects_out(terminal: &mut Terminal, format: Format, value: &Value) -> Outcome {
    match format {
        Format::Yaml => terminal.write(&(yaml::block(value) + "\n")),
        _ => terminal.write(&(to_python_json(value).or_fail()? + "\n")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::terminal::Captured;

    fn rows(rows: &[&[&str]]) -> Vec<Vec<String>> {
        rows.iter().map(|r| r.iter().map(|c| (*c).to_owned()).collect()).collect()
    }

    #[test]
    fn boxes() {
        assert_eq!(
            draw(None, &["TL", "Reason"], &rows(&[&["1", "no target"], &["12", ""]])),
            "+----+-----------+\n| TL | Reason    |\n+----+-----------+\n|  1 | no target |\n| 12 |           |\n+----+-----------+\n"
        );
        assert_eq!(
            draw(Some("Cluster: a very long name"), &["A", "B"], &rows(&[&["x\ny", ""], &["z", "w"]])),
            "+ Cluste+\n| A | B |\n+---+---+\n| x |   |\n| y |   |\n+---+---+\n| z | w |\n+---+---+\n"
        );
        assert_eq!(titled("+---+---+", "Cluster: a very long name"), "+ Cluste+");
        assert_eq!(draw(None, &["A"], &[]), "+---+\n| A |\n+---+\n+---+\n");
    }

    #[test]
    fn formats_for_programs() {
        let print = |format, omit| {
            let out = Captured::default();
            let rows = [vec![json!("a"), json!(1), json!("")], vec![json!("ü"), Value::Null, json!({"k": true})]];
            super::print(&mut out.terminal(""), format, &["Name", "TL", "Tags"], &rows, omit).unwrap();
            out.text()
        };
        assert_eq!(print(Format::Tsv, false), "Name\tTL\tTags\na\t1\t\nü\t\t{\"k\":true}\n");
        assert_eq!(
            print(Format::Json, true),
            "[{\"Name\": \"a\", \"TL\": 1}, {\"Name\": \"\\u00fc\", \"Tags\": {\"k\": true}}]\n"
        );
        assert_eq!(print(Format::Yaml, true), "- Name: a\n  TL: 1\n- Name: ü\n  Tags:\n    k: true\n\n");
    }
}
