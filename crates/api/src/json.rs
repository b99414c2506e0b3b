//! JSON laid out the way existing clients of the API compare it: one line, `", "` and `": "` as
//! separators, everything beyond ASCII escaped (`spec/rest-api.md §1`).

use std::io;

use serde::Serialize;
use serde_json::ser::Formatter;

struct PythonLike;

impl Formatter for PythonLike {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        // Nearly all of them; one by one, characters cost more than the rest of a document.
        if fragment.is_ascii() {
            return writer.write_all(fragment.as_bytes());
        }
        let mut units = [0u16; 2];
        for c in fragment.chars() {
            if c.is_ascii() {
                writer.write_all(&[c as u8])?;
            } else {
                for unit in c.encode_utf16(&mut units) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

/// Fails only for values that are no JSON, such as a map with keys that are no strings.
pub fn to_python_json(value: &impl Serialize) -> Result<String, serde_json::Error> {
    let mut out = Vec::with_capacity(256);
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, PythonLike))?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_and_escapes() {
        let value = serde_json::json!({"a": [1, 2, {}], "ü": "\u{1F418} \"x\"\n", "e": []});
        assert_eq!(to_python_json(&value).unwrap(), r#"{"a": [1, 2, {}], "\u00fc": "\ud83d\udc18 \"x\"\n", "e": []}"#);
    }
}
