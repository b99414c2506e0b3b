//! As much of DNS messages as an SRV look-up needs (RFC 1035, RFC 2782).

const TYPE_SRV: u16 = 33;
const CLASS_IN: u16 = 1;
const HEADER: usize = 12;
const TRUNCATED: u16 = 0x0200;
const RESPONSE: u16 = 0x8000;
const NO_SUCH_NAME: u16 = 3;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub priority: u16,
    pub weight: u16,
    pub port: u16,
    pub target: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Records(Vec<Record>),
    /// Too long for a datagram: ask by TCP.
    Truncated,
    /// Not the answer to this question.
    NotOurs,
}

pub(super) fn encode_name(name: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|n| (1..=63).contains(n));
        bytes.push(length.ok_or_else(|| format!("\"{name}\" is no domain name"))?);
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    Ok(bytes)
}

pub(super) fn query(id: u16, name: &str) -> Result<Vec<u8>, String> {
    // Flags: recursion desired. One question.
    let mut message: Vec<u8> = [id, 0x0100, 1, 0, 0, 0].iter().flat_map(|word| word.to_be_bytes()).collect();
    message.extend(encode_name(name)?);
    message.extend([TYPE_SRV, CLASS_IN].iter().flat_map(|word| word.to_be_bytes()));
    Ok(message)
}

pub(super) fn answer(message: &[u8], id: u16) -> Result<Answer, String> {
    parse(message, id).unwrap_or_else(|| Err("an answer cut short".to_owned()))
}

fn parse(message: &[u8], id: u16) -> Option<Result<Answer, String>> {
    let flags = word(message, 2)?;
    if word(message, 0)? != id || flags & RESPONSE == 0 {
        return Some(Ok(Answer::NotOurs));
    }
    if flags & TRUNCATED != 0 {
        return Some(Ok(Answer::Truncated));
    }
    match flags & 0xf {
        0 | NO_SUCH_NAME => {}
        code => return Some(Err(format!("the name server failed with code {code}"))),
    }
    let mut at = HEADER;
    for _ in 0..word(message, 4)? {
        at = name(message, at)?.1 + 4;
    }
    let mut records = Vec::new();
    for _ in 0..word(message, 6)? {
        at = name(message, at)?.1;
        let (kind, length) = (word(message, at)?, usize::from(word(message, at + 8)?));
        let data = at + 10;
        if kind == TYPE_SRV {
            let target = name(message, data + 6)?.0;
            let (priority, weight, port) = (word(message, data)?, word(message, data + 2)?, word(message, data + 4)?);
            // A single dot means that the service is decidedly not offered.
            if !target.is_empty() {
                records.push(Record { priority, weight, port, target });
            }
        }
        at = data + length;
    }
    Some(Ok(Answer::Records(records)))
}

fn word(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?))
}

/// The name that begins at `at`, and where the bytes after it begin.
fn name(message: &[u8], at: usize) -> Option<(String, usize)> {
    let mut labels: Vec<String> = Vec::new();
    let mut next = at;
    let mut end = None;
    loop {
        let length = *message.get(next)?;
        match length {
            0 => return Some((labels.join("."), end.unwrap_or(next + 1))),
            1..=63 => {
                let label = message.get(next + 1..next + 1 + usize::from(length))?;
                labels.push(String::from_utf8_lossy(label).into_owned());
                next += 1 + usize::from(length);
            }
            0xc0.. => {
                end = end.or(Some(next + 2));
                let target = usize::from(word(message, next)? & 0x3fff);
                // Only backwards: a loop of pointers would never end.
                if target >= next {
                    return None;
                }
                next = target;
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What a name server sends back; the record names point at the question.
    pub(in crate::srv) fn reply(query: &[u8], records: Option<&[(u16, u16, u16, &str)]>, cut: bool) -> Vec<u8> {
        let code = if records.is_some() { 0 } else { NO_SUCH_NAME };
        let records = records.filter(|_| !cut).unwrap_or_default();
        let flags = RESPONSE | if cut { TRUNCATED } else { 0 } | code;
        let mut message = query[..2].to_vec();
        let counts = [flags, 1, u16::try_from(records.len()).unwrap(), 0, 0];
        message.extend(counts.iter().flat_map(|word| word.to_be_bytes()));
        message.extend(&query[HEADER..]);
        for (priority, weight, port, target) in records {
            let target = encode_name(target).unwrap();
            let length = u16::try_from(6 + target.len()).unwrap();
            let words = [0xc00c, TYPE_SRV, CLASS_IN, 0, 60, length, *priority, *weight, *port];
            message.extend(words.iter().flat_map(|word| word.to_be_bytes()));
            message.extend(target);
        }
        message
    }

    #[test]
    fn broken_answers_are_errors_and_never_loops() {
        let question = query(7, "_etcd._tcp.x").unwrap();
        let good = reply(&question, Some(&[(1, 2, 3, "a.x"), (1, 2, 4, "b.x")]), false);
        let Ok(Answer::Records(records)) = answer(&good, 7) else { panic!("not read") };
        assert_eq!(records[1], Record { priority: 1, weight: 2, port: 4, target: "b.x".into() });
        assert_eq!(answer(&good, 8), Ok(Answer::NotOurs));
        assert_eq!(answer(&question, 7), Ok(Answer::NotOurs));
        for n in 0..good.len() {
            assert!(!matches!(answer(&good[..n], 7), Ok(Answer::Records(_))), "cut at {n}");
        }
        let mut looping = good.clone();
        let pointer = question.len();
        looping[pointer + 1] = u8::try_from(pointer).unwrap();
        assert!(answer(&looping, 7).is_err());
        assert!(query(1, "a..b").is_err() && query(1, &"x".repeat(64)).is_err());
    }
}
