//! The setting `synchronous_standby_names` (`spec/ha.md §16.2`).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Stands in the setting of a strict cluster that has no synchronous standby: no member may have this name.
pub const PLACEHOLDER: &str = "__patroni_strict_sync_replica_placeholder__";

/// What a commit waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Names {
    /// Nobody.
    Nobody,
    /// Somebody who never comes: no commit is acknowledged.
    Blocked { any: bool },
    /// `count` of these have it on disk. Of `any` of them, or of the first that are connected.
    Of { any: bool, count: usize, names: BTreeSet<String> },
    /// Something that this program did not write. It vouches for nothing.
    Foreign(String),
}

impl Names {
    /// Every one of these, as mode `on` waits for them.
    pub fn all(names: impl IntoIterator<Item = String>) -> Names {
        let names: BTreeSet<String> = names.into_iter().collect();
        if names.is_empty() { Names::Nobody } else { Names::Of { any: false, count: names.len(), names } }
    }

    pub fn any(count: usize, names: impl IntoIterator<Item = String>) -> Names {
        let names: BTreeSet<String> = names.into_iter().collect();
        if names.is_empty() || count == 0 { Names::Nobody } else { Names::Of { any: true, count, names } }
    }

    /// Names are compared without regard to case, so they come out as `known` spells them, else in lower case.
    pub fn parse<'a>(text: &str, known: impl Fn(&str) -> Option<&'a str>) -> Names {
        let foreign = || Names::Foreign(text.to_owned());
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Names::Nobody;
        }
        let (any, rest) = match split_word(trimmed) {
            (word, rest) if word.eq_ignore_ascii_case("any") && !rest.is_empty() => (true, rest),
            (word, rest) if word.eq_ignore_ascii_case("first") && !rest.is_empty() => (false, rest),
            _ => (false, trimmed),
        };
        let digits = rest.chars().take_while(char::is_ascii_digit).count();
        let (count, list) = match rest.split_at_checked(digits) {
            Some((number, list)) if !number.is_empty() => {
                let list = list.trim();
                let inner = list.strip_prefix('(').and_then(|l| l.strip_suffix(')'));
                match (number.parse(), inner) {
                    (Ok(count), Some(inner)) => (count, inner),
                    _ => return foreign(),
                }
            }
            _ if any => return foreign(),
            _ => (1, rest),
        };
        let Some(list) = unquote(list) else { return foreign() };
        if list.iter().all(|n| n.eq_ignore_ascii_case(PLACEHOLDER)) {
            return Names::Blocked { any };
        }
        if count == 0 || list.iter().any(|n| n == "*" || n.eq_ignore_ascii_case(PLACEHOLDER)) {
            return foreign();
        }
        let spell = |n: &String| known(n).map_or_else(|| n.to_lowercase(), str::to_owned);
        let names: BTreeSet<String> = list.iter().map(spell).collect();
        if count > names.len() {
            return foreign();
        }
        Names::Of { any, count, names }
    }

    /// The text for the configuration. `None`: the setting is left out.
    pub fn text(&self) -> Option<String> {
        match self {
            Names::Nobody => None,
            Names::Blocked { any: false } => Some(PLACEHOLDER.into()),
            Names::Blocked { any: true } => Some(format!("ANY 1 ({PLACEHOLDER})")),
            Names::Foreign(text) => Some(text.clone()),
            Names::Of { any, count, names } => {
                let list: Vec<String> = names.iter().map(|n| quoted(n)).collect();
                let list = list.join(",");
                Some(match any {
                    true => format!("ANY {count} ({list})"),
                    false if *count == 1 && names.len() == 1 => list,
                    false => format!("{count} ({list})"),
                })
            }
        }
    }

    pub fn lists(&self, name: &str) -> bool {
        matches!(self, Names::Of { names, .. } if names.contains(name))
    }

    /// How many of `voters` have, at the least, every commit that is acknowledged under this setting.
    pub fn holders(&self, voters: &BTreeSet<String>) -> usize {
        match self {
            Names::Nobody | Names::Foreign(_) => 0,
            // There is no such commit.
            Names::Blocked { .. } => voters.len(),
            // The first that are connected may be any of them, as far as one that asks later can tell.
            Names::Of { count, names, .. } => {
                let outside = names.difference(voters).count();
                (*count).min(names.len()).saturating_sub(outside)
            }
        }
    }
}

fn split_word(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    // `any1` and `first(` are names or nonsense, not the keyword.
    if rest.starts_with(char::is_whitespace) { (word, rest.trim_start()) } else { ("", text) }
}

/// The names of a list; `None` if it is none.
fn unquote(list: &str) -> Option<Vec<String>> {
    let mut names = vec![];
    let mut rest = list.trim();
    loop {
        let (name, after) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let mut name = String::new();
                let mut chars = quoted.char_indices().peekable();
                loop {
                    match chars.next()? {
                        (_, '"') if chars.peek().is_some_and(|(_, c)| *c == '"') => {
                            name.push('"');
                            chars.next();
                        }
                        (at, '"') => break (name, quoted.get(at + 1..)?),
                        (_, c) => name.push(c),
                    }
                }
            }
            None => {
                let end = rest.find(|c: char| c == ',' || c.is_whitespace()).unwrap_or(rest.len());
                let (name, after) = rest.split_at(end);
                if name != "*" && !bare(name) {
                    return None;
                }
                (name.to_owned(), after)
            }
        };
        if name.is_empty() {
            return None;
        }
        names.push(name);
        rest = after.trim_start();
        match rest.strip_prefix(',') {
            Some(next) => rest = next.trim_start(),
            None => return rest.is_empty().then_some(names),
        }
    }
}

fn bare(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '$')
        && !["first", "any"].iter().any(|word| name.eq_ignore_ascii_case(word))
}

fn quoted(name: &str) -> String {
    if bare(name) { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Names {
        Names::parse(text, |n| ["node-1", "A", "b", "c"].into_iter().find(|k| k.eq_ignore_ascii_case(n)))
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn what_is_written_is_read_again() {
        for (text, names) in [
            ("", Names::Nobody),
            ("b", Names::all(["b".into()])),
            ("\"node-1\"", Names::all(["node-1".into()])),
            ("2 (A,\"node-1\")", Names::all(["node-1".into(), "A".into()])),
            ("ANY 1 (b)", Names::any(1, ["b".into()])),
            ("ANY 2 (A,b,c)", Names::any(2, ["A".into(), "b".into(), "c".into()])),
            (PLACEHOLDER, Names::Blocked { any: false }),
            ("ANY 1 (__patroni_strict_sync_replica_placeholder__)", Names::Blocked { any: true }),
        ] {
            assert_eq!(parse(text), names, "{text}");
            assert_eq!(names.text().unwrap_or_default(), text);
        }
        for name in ["first", "ANY", "a\"b", "1a", "ä", "a b", "x,y"] {
            let names = Names::all([name.to_owned(), "zz".into()]);
            assert_eq!(Names::parse(&names.text().unwrap(), |n| Some(if n == "zz" { "zz" } else { name })), names);
        }
    }

    #[test]
    fn other_spellings_mean_the_same() {
        for text in ["FIRST 2 (a, B)", "2(b,a)", "first 2 ( \"a\" , \"b\" )"] {
            assert_eq!(parse(text), Names::all(["A".into(), "b".into()]), "{text}");
        }
        assert_eq!(parse("a, b"), Names::Of { any: false, count: 1, names: set(&["A", "b"]) });
        for text in
            ["*", "ANY 1 (*)", "b,*", "ANY b", "2 b", "ANY 2 (b)", "b c", "\"b", "0 (b)", "ANY 1 (b", "()", "b,"]
        {
            assert!(matches!(parse(text), Names::Foreign(_)), "{text}: {:?}", parse(text));
        }
    }

    #[test]
    fn who_holds_what_is_acknowledged() {
        let voters = set(&["A", "b", "c"]);
        assert_eq!(parse("ANY 2 (a,b,c)").holders(&voters), 2);
        assert_eq!(parse("ANY 2 (a,b,x)").holders(&voters), 1, "x may be one of the two");
        assert_eq!(parse("a,b").holders(&voters), 1);
        assert_eq!(parse("*").holders(&voters), 0);
        assert_eq!(parse("").holders(&voters), 0);
        assert_eq!(parse(PLACEHOLDER).holders(&voters), 3);
    }
}
