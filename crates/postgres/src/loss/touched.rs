//! Where the rows are that committed transactions left behind: the records of the heap say which place of which file they
//! wrote, whatever `wal_level` is.

use std::collections::{BTreeMap, BTreeSet};

/// Rows of which the place is remembered. Behind them nothing is: what came later could have changed them again.
const ROWS: u64 = 10_000;
/// Pages of a file to which rows were added that the log does not place.
const PAGES: usize = 200;
/// More rows than fit on a page of any size but the largest.
const ROWS_ON_A_PAGE: u16 = 291;

/// Page and number on it, as in `ctid`.
pub(super) type Place = (u32, u16);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// Its place in the log.
    pub number: u64,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Insert(Place),
    /// A new page with so many rows.
    Page(u32, u16),
    /// Somewhere on it.
    OnPage(u32),
    Update {
        old: Place,
        new: Place,
    },
    Delete(Place),
}

impl Change {
    /// `rest` is what `pg_waldump` says of the record behind its name. `None`: it is not understood.
    pub fn of(number: u64, what: &str, rest: &str, rows: u64) -> Option<Change> {
        let (new_page, old_page) = (page(rest, 0)?, page(rest, 1));
        let place = |page: u32, key: &[&str]| Some((page, offset(rest, key)?));
        let what = match what {
            "MULTI_INSERT+INIT" => What::Page(new_page, u16::try_from(rows).ok()?),
            "MULTI_INSERT" => What::OnPage(new_page),
            "INSERT" | "INSERT+INIT" => What::Insert(place(new_page, &["off"])?),
            "DELETE" => What::Delete(place(new_page, &["off"])?),
            _ => What::Update {
                old: place(old_page.unwrap_or(new_page), &["old_off", "off"])?,
                new: place(new_page, &["new_off", "new off"])?,
            },
        };
        Some(Change { number, what })
    }
}

fn page(rest: &str, block: u8) -> Option<u32> {
    let (_, of_block) = rest.split_once(&format!("blkref #{block}: rel "))?;
    let (_, number) = of_block.split_once(" blk ")?;
    number.split([' ', ',']).next()?.parse().ok()
}

/// `off 6 xmax 732 flags 0x60 ; new off 10 xmax 0`, and from 16 on `old_off: 6, flags: 0x60, new_off: 10`.
fn offset(rest: &str, keys: &[&str]) -> Option<u16> {
    let text = rest.split("blkref").next()?.replace([':', ',', ';'], " ");
    let words: Vec<&str> = text.split_whitespace().collect();
    keys.iter().find_map(|key| {
        let key: Vec<&str> = key.split(' ').collect();
        let at = words.windows(key.len()).position(|w| w == key)?;
        words.get(at + key.len())?.parse().ok()
    })
}

/// What transactions left in one file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct InFile {
    /// Where the last version of a row is, and whether it was there before.
    pub rows: BTreeMap<Place, Kind>,
    pub pages: BTreeSet<u32>,
    /// What rows can carry that were written here.
    pub xids: BTreeSet<u32>,
    /// Where a row was at the fork, and the transaction that deleted it.
    pub deleted: BTreeMap<Place, u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Inserted,
    /// It was there at the fork.
    Updated(Place),
}

impl InFile {
    pub fn places(&self) -> impl Iterator<Item = Place> {
        let anywhere = self.pages.iter().flat_map(|page| (1..=ROWS_ON_A_PAGE).map(|row| (*page, row)));
        self.rows.keys().copied().chain(anywhere)
    }
}

#[derive(Debug, Default)]
pub(super) struct Touched {
    pub files: BTreeMap<String, InFile>,
    /// By each id a row can carry: the transaction, and when it was committed.
    pub xids: BTreeMap<u32, (u32, String)>,
    remembered: u64,
    /// Rows that are not remembered.
    pub beyond: u64,
}

impl Touched {
    /// Whether so many more rows are remembered.
    pub fn wants(&mut self, rows: u64) -> bool {
        let wanted = self.beyond == 0 && self.remembered + rows <= ROWS;
        if wanted {
            self.remembered += rows
        } else {
            self.beyond += rows
        }
        wanted
    }

    /// Rolled back.
    pub fn forget(&mut self, rows: usize) {
        self.remembered = self.remembered.saturating_sub(rows as u64);
    }

    /// Changes of a transaction in their order, each with the id it was made under.
    pub fn committed(&mut self, xid: u32, at: &str, changes: Vec<(u32, String, Change)>) {
        for (under, file, change) in changes {
            self.xids.entry(under).or_insert_with(|| (xid, at.to_owned()));
            let here = self.files.entry(file).or_default();
            here.xids.insert(under);
            match change.what {
                What::Insert(place) => drop(here.rows.insert(place, Kind::Inserted)),
                What::Page(page, rows) => here.rows.extend((1..=rows).map(|row| ((page, row), Kind::Inserted))),
                What::OnPage(page) if here.pages.len() < PAGES => drop(here.pages.insert(page)),
                What::OnPage(_) => self.beyond += 1,
                What::Update { old, new } => {
                    let kind = here.rows.remove(&old).unwrap_or(Kind::Updated(old));
                    here.rows.insert(new, kind);
                }
                What::Delete(place) => match here.rows.remove(&place) {
                    Some(Kind::Inserted) => {}
                    Some(Kind::Updated(was)) => drop(here.deleted.insert(was, xid)),
                    None => drop(here.deleted.insert(place, xid)),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_all_versions() {
        let one = "blkref #0: rel 1663/5/16384 blk 7";
        let two = "blkref #0: rel 1663/5/16384 blk 9 FPW, blkref #1: rel 1663/5/16384 blk 7";
        for (what, text, blocks, want) in [
            ("INSERT", "off 6 flags 0x08", one, What::Insert((7, 6))),
            ("INSERT+INIT", "off: 1, flags: 0x00", one, What::Insert((7, 1))),
            (
                "HOT_UPDATE",
                "off 2 xmax 726 flags 0x10 ; new off 7 xmax 0",
                one,
                What::Update { old: (7, 2), new: (7, 7) },
            ),
            (
                "UPDATE",
                "old_xmax: 726, old_off: 2, old_infobits: [], flags: 0x10, new_xmax: 0, new_off: 3",
                two,
                What::Update { old: (7, 2), new: (9, 3) },
            ),
            (
                "UPDATE+INIT",
                "off 2 xmax 7 flags 0x0 ; new off 1 xmax 0",
                two,
                What::Update { old: (7, 2), new: (9, 1) },
            ),
            ("DELETE", "off 3 flags 0x04 KEYS_UPDATED ", one, What::Delete((7, 3))),
            ("DELETE", "xmax: 727, off: 3, infobits: [KEYS_UPDATED], flags: 0x04", one, What::Delete((7, 3))),
            ("MULTI_INSERT", "3 tuples flags 0x0A", one, What::OnPage(7)),
            ("MULTI_INSERT+INIT", "ntuples: 3, flags: 0x0A", one, What::Page(7, 3)),
        ] {
            let text = format!("{text}, {blocks}");
            assert_eq!(Change::of(1, what, &text, 3).map(|c| c.what), Some(want), "{what} {text}");
        }
        assert_eq!(Change::of(1, "INSERT", "flags 0x08", 1), None);
    }

    fn after(changes: &[What]) -> InFile {
        let mut touched = Touched::default();
        for (n, what) in changes.iter().enumerate() {
            touched.committed(7, "now", vec![(8, "f".into(), Change { number: n as u64, what: *what })]);
        }
        assert_eq!(touched.xids[&8], (7, "now".to_owned()));
        touched.files.remove("f").unwrap()
    }

    #[test]
    fn what_is_left_in_the_end() {
        use What::{Delete, Insert, Update};
        let (a, b, c) = ((0, 1), (0, 2), (3, 1));
        for (changes, rows, deleted) in [
            (vec![Insert(a)], vec![(a, Kind::Inserted)], vec![]),
            (vec![Insert(a), Update { old: a, new: b }], vec![(b, Kind::Inserted)], vec![]),
            (vec![Insert(a), Update { old: a, new: b }, Delete(b)], vec![], vec![]),
            (vec![Update { old: a, new: b }], vec![(b, Kind::Updated(a))], vec![]),
            (vec![Update { old: a, new: b }, Update { old: b, new: c }], vec![(c, Kind::Updated(a))], vec![]),
            (vec![Update { old: a, new: b }, Delete(b)], vec![], vec![a]),
            (vec![Delete(a)], vec![], vec![a]),
            (vec![What::Page(3, 2)], vec![(c, Kind::Inserted), ((3, 2), Kind::Inserted)], vec![]),
        ] {
            let found = after(&changes);
            assert_eq!(found.rows, rows.into_iter().collect(), "{changes:?}");
            assert_eq!(found.deleted.into_keys().collect::<Vec<_>>(), deleted, "{changes:?}");
        }
    }

    #[test]
    fn not_more_than_the_budget() {
        let mut touched = Touched::default();
        assert!(touched.wants(ROWS) && !touched.wants(1));
        touched.forget(10);
        assert!(!touched.wants(1), "what lies between would be missing");
        assert_eq!(touched.beyond, 2);
    }
}
