//! YAML text to a tree. Messages name the place and the rule, never the text around it: it may be a password.

use std::collections::HashMap;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, Span};

use super::{Entry, Node, NodeValue, resolve};
use crate::finding::{Finding, Place, Severity, Source};

/// Aliases can make a small file expand without bounds.
const MAX_NODES: usize = 100_000;

/// Parses one document. `warnings` receives what is odd and still has a meaning.
pub(crate) fn parse(text: &str, source: &Source, warnings: &mut Vec<Finding>) -> Result<Node, Finding> {
    let options = granit_parser::options! { emit_comments: false };
    let mut builder = Builder {
        parser: Parser::new_from_str_with_options(text, options),
        source,
        warnings,
        anchors: HashMap::new(),
        nodes: 0,
    };
    let mut root = None;
    while let Some((event, place)) = builder.next()? {
        match event {
            Event::StreamStart | Event::DocumentEnd | Event::StreamEnd => {}
            Event::DocumentStart(..) if root.is_some() => {
                return Err(fault(
                    place,
                    "a second document starts here; put everything into one, without `---` between",
                ));
            }
            Event::DocumentStart(..) => {}
            event => root = Some(builder.node(event, place, &[])?),
        }
    }
    Ok(root.unwrap_or_else(|| Node::new(NodeValue::Null, Place { source: source.clone(), line: 1, column: 1 })))
}

fn fault(place: Place, message: impl Into<String>) -> Finding {
    Finding { severity: Severity::Error, place, path: String::new(), message: message.into() }
}

struct Builder<'a, 'w> {
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    source: &'w Source,
    warnings: &'w mut Vec<Finding>,
    /// Finished anchored nodes, and how many nodes each has.
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
}

impl<'a> Builder<'a, '_> {
    fn next(&mut self) -> Result<Option<(Event<'a>, Place)>, Finding> {
        match self.parser.next_event() {
            None => Ok(None),
            Some(Ok((event, span))) => Ok(Some((event, self.place(&span)))),
            Some(Err(error)) => {
                let marker = error.marker();
                let place = Place { source: self.source.clone(), line: marker.line().max(1), column: marker.col() + 1 };
                let advice = match error.kind() {
                    ErrorKind::UnclosedQuotedScalar
                    | ErrorKind::InvalidQuotedScalarIndent
                    | ErrorKind::DocumentIndicatorInQuotedScalar => "look for a quote further up that is not closed",
                    _ => "check indentation, colons and quotes here and on the line before",
                };
                Err(fault(place, format!("not valid YAML: {}; {advice}", error.info())))
            }
        }
    }

    fn place(&self, span: &Span) -> Place {
        Place { source: self.source.clone(), line: span.start.line().max(1), column: span.start.col() + 1 }
    }

    fn inside(&mut self, place: &Place) -> Result<(Event<'a>, Place), Finding> {
        self.next()?.ok_or_else(|| fault(place.clone(), "not valid YAML: the text ends inside of what begins here"))
    }

    fn node(&mut self, event: Event<'a>, place: Place, path: &[String]) -> Result<Node, Finding> {
        let before = self.nodes;
        self.nodes += 1;
        let (anchor, node) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let tag = tag.as_deref().map(|tag| (tag.core_suffix().map(str::to_owned), tag.original()));
                (anchor, scalar(text.into_owned(), style, tag, place.clone())?)
            }
            Event::SequenceStart(_, anchor, _) => {
                let mut items = Vec::new();
                loop {
                    match self.inside(&place)? {
                        (Event::SequenceEnd, _) => break,
                        (event, at) => {
                            let path = [path, &[items.len().to_string()]].concat();
                            items.push(self.node(event, at, &path)?);
                        }
                    }
                }
                (anchor, Node::new(NodeValue::List(items), place.clone()))
            }
            Event::MappingStart(_, anchor, _) => {
                let entries = self.mapping(&place, path)?;
                (anchor, Node::new(NodeValue::Map(entries), place.clone()))
            }
            Event::Alias(id) => {
                let (node, size) =
                    self.anchors.get(&id).cloned().ok_or_else(|| {
                        fault(place.clone(), "not valid YAML: this alias stands for the thing it is in")
                    })?;
                self.nodes += size;
                (0, node)
            }
            _ => return Err(fault(place, "not valid YAML: a value was expected here")),
        };
        if self.nodes > MAX_NODES {
            return Err(fault(
                place,
                format!("the file has more than {MAX_NODES} values once its aliases are expanded"),
            ));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), self.nodes - before));
        }
        Ok(node)
    }

    fn mapping(&mut self, place: &Place, path: &[String]) -> Result<Vec<Entry>, Finding> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut merged: Vec<Entry> = Vec::new();
        loop {
            let (event, key_place) = self.inside(place)?;
            let (key, plain) = match event {
                Event::MappingEnd => break,
                Event::Scalar(text, style, ..) => (text.into_owned(), style == ScalarStyle::Plain),
                _ => return Err(fault(key_place, "a key has to be text, found a list, a map or an alias")),
            };
            let (event, at) = self.inside(place)?;
            let below = [path, std::slice::from_ref(&key)].concat();
            let node = self.node(event, at, &below)?;
            if key == "<<" && plain {
                merge_keys(node, &mut merged)?;
            } else if let Some(earlier) = entries.iter_mut().find(|e| e.key == key) {
                self.warnings.push(Finding {
                    severity: Severity::Warning,
                    place: key_place.clone(),
                    path: below.join("."),
                    message: format!(
                        "is here a second time (first in line {}); only this one counts, remove the other",
                        earlier.key_place.line
                    ),
                });
                *earlier = Entry { key, key_place, node };
            } else {
                entries.push(Entry { key, key_place, node });
            }
        }
        for entry in merged {
            if !entries.iter().any(|e| e.key == entry.key) {
                entries.push(entry);
            }
        }
        Ok(entries)
    }
}

/// `<<: *other`: keys of the map, or of several with the first one winning.
fn merge_keys(node: Node, merged: &mut Vec<Entry>) -> Result<(), Finding> {
    let maps = match node.value {
        NodeValue::Map(entries) => vec![entries],
        NodeValue::List(items) if items.iter().all(|i| i.entries().is_some()) => items
            .into_iter()
            .filter_map(|item| match item.value {
                NodeValue::Map(entries) => Some(entries),
                _ => None,
            })
            .collect(),
        _ => return Err(fault(node.place, "`<<` takes a map or a list of maps, usually as an alias: `<<: *name`")),
    };
    for entry in maps.into_iter().flatten() {
        if !merged.iter().any(|e| e.key == entry.key) {
            merged.push(entry);
        }
    }
    Ok(())
}

fn scalar(
    text: String,
    style: ScalarStyle,
    tag: Option<(Option<String>, String)>,
    place: Place,
) -> Result<Node, Finding> {
    let plain = match tag {
        None => style == ScalarStyle::Plain,
        Some((Some(core), _)) if core == "str" => false,
        Some((Some(core), _)) if matches!(core.as_str(), "int" | "float" | "bool" | "null") => true,
        // `!` alone makes a plain scalar text.
        Some((_, original)) if original == "!" => false,
        Some((_, original)) => {
            return Err(fault(place, format!("the tag {original} has no meaning in a configuration; remove it")));
        }
    };
    if !plain {
        return Ok(Node::new(NodeValue::Text(text), place));
    }
    let value = resolve(&text);
    let raw = (!matches!(value, NodeValue::Text(_) | NodeValue::Null)).then_some(text);
    Ok(Node { value, raw, place })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::*;

    fn source() -> Source {
        Source::File(Arc::new(PathBuf::from("p.yml")))
    }

    fn json(text: &str) -> String {
        parse(text, &source(), &mut Vec::new()).unwrap().to_json().to_string()
    }

    fn error(text: &str) -> String {
        parse(text, &source(), &mut Vec::new()).unwrap_err().to_string()
    }

    #[test]
    fn every_value_knows_its_place() {
        let root = parse("a:\n  b:\n    - on\n    - 'on'\n", &source(), &mut Vec::new()).unwrap();
        let Some(Node { value: NodeValue::List(items), .. }) = root.at(&["a", "b"]) else { panic!("no list") };
        assert_eq!((items[1].place.line, items[1].place.column), (4, 7));
        assert_eq!(items[0].value, NodeValue::Bool(true));
        assert_eq!(items[1].value, NodeValue::Text("on".into()));
        assert_eq!(items[0].scalar_text().as_deref(), Some("on"));
    }

    #[test]
    fn aliases_merge_keys_and_tags() {
        assert_eq!(json("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}\n"), r#"{"a":{"b":1,"c":2},"d":{"c":3,"b":1}}"#);
        assert_eq!(json("x: !!str 5\ny: ! 6\nz: !!int '7'\n"), r#"{"x":"5","y":"6","z":7}"#);
        assert_eq!(json("# nothing\n"), "null");
        assert_eq!(json("a: |\n  x\n  y\nb: >\n  x\n  y\n"), r#"{"a":"x\ny\n","b":"x y\n"}"#);
    }

    #[test]
    fn a_key_given_twice_is_told_and_the_last_counts() {
        let mut warnings = Vec::new();
        let root = parse("a:\n  b: 1\n  b: 2\n", &source(), &mut warnings).unwrap();
        assert_eq!(root.to_json().to_string(), r#"{"a":{"b":2}}"#);
        assert_eq!(
            warnings[0].to_string(),
            "p.yml:3:3: a.b: is here a second time (first in line 2); only this one counts, remove the other"
        );
    }

    #[test]
    fn faults_have_a_place_and_no_text_of_the_file() {
        let bad = [
            "a:\n  password: \"hunter2\n",
            "a: [hunter2\n",
            "a:\n\tb: hunter2\n",
            "a: b: hunter2\n",
            "a: *hunter2\n",
            "hunter2: 1\n---\nx: 2\n",
            "a: &x [*x]\n",
            "a: !!binary hunter2\n",
            "? [hunter2]\n: 1\n",
            "a: 1\n hunter2: 2\n",
            "{a: 1}}\n",
        ];
        for text in bad {
            let message = error(text);
            assert!(message.starts_with("p.yml:"), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
            assert!(!message.contains('\n'), "{message}");
        }
        assert!(error("a: 1\nb: [1, 2\nc: 3\n").starts_with("p.yml:3:"), "{}", error("a: 1\nb: [1, 2\nc: 3\n"));
    }

    #[test]
    fn an_alias_bomb_is_stopped() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..12 {
            let alias = format!("*a{}", i - 1);
            text.push_str(&format!("a{i}: &a{i} [{}]\n", [alias.as_str(); 10].join(", ")));
        }
        assert!(error(&text).contains("more than 100000 values"), "{}", error(&text));
    }
}
