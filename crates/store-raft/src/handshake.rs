//! How two ends of a connection come to trust each other.
//!
//! With a shared secret each end proves that it knows it: a keyed hash over everything both said, fresh
//! random numbers of both included, so that nothing recorded can be played back. The caller proves
//! first: a stranger is given nothing to guess the secret from. After that every frame carries a hash
//! under a key of this connection, direction and position, so that nothing can be put in between.
//! Contents are not hidden by this; TLS is for that.
//!
//! A node that belongs to a group says so; ends of two different groups part here.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use hmac::{Hmac, Mac};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::types::{from_hex, random, to_hex};

pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

pub type Frames = Framed<Box<dyn Transport>, LengthDelimitedCodec>;

const PROTOCOL: u32 = 1;
/// What a stranger may make us read before we know him.
const FIRST_FRAMES: usize = 4 << 10;
pub const MAX_FRAME: usize = 16 << 20;
pub const PATIENCE: Duration = Duration::from_secs(3);
const MAC_LEN: usize = 32;

/// Who is at one end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// `None` for a client.
    pub node: Option<u64>,
    pub addr: String,
    pub group: Option<String>,
    /// Groups that were lost, and recovered as `group`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaces: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Hello {
    surus_store: u32,
    who: Who,
    nonce: String,
    secret: bool,
}

#[derive(Serialize, Deserialize)]
enum Response {
    Hello(Hello),
    Welcome { proof: String },
    Refused { reason: String },
}

#[derive(Serialize, Deserialize)]
struct Proof {
    proof: String,
}

#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The other end, or this one, says no: repeating will not help until something is changed.
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Broken(String),
}

use HandshakeError::{Broken, Refused};

/// A trusted connection.
pub struct Session {
    pub frames: Frames,
    pub peer: Who,
    pub outgoing: Seal,
    pub incoming: Seal,
}

pub fn frames(io: Box<dyn Transport>) -> Frames {
    Framed::new(io, LengthDelimitedCodec::builder().max_frame_length(FIRST_FRAMES).new_codec())
}

/// The caller's part.
pub async fn greet(io: Box<dyn Transport>, me: &Who, secret: Option<&str>) -> Result<Session, HandshakeError> {
    let mut frames = frames(io);
    let hello = Hello { surus_store: PROTOCOL, who: me.clone(), nonce: nonce(), secret: secret.is_some() };
    let sent = send(&mut frames, &hello).await?;
    let (theirs, received) = match receive_raw::<Response>(&mut frames).await? {
        (Response::Hello(theirs), raw) => (theirs, raw),
        (Response::Refused { reason }, _) => return Err(Refused(reason)),
        (Response::Welcome { .. }, _) => return Err(Broken("it did not follow the protocol".into())),
    };
    check(me, secret, &theirs)?;
    let keys = Keys::new(secret, &sent, &received);
    send(&mut frames, &Proof { proof: keys.proof("caller") }).await?;
    match receive_raw::<Response>(&mut frames).await?.0 {
        Response::Welcome { proof } if keys.accepts("listener", &proof) => {}
        Response::Welcome { .. } => return Err(Refused("it does not know the shared secret (raft.password)".into())),
        Response::Refused { reason } => return Err(Refused(reason)),
        Response::Hello(_) => return Err(Broken("it did not follow the protocol".into())),
    }
    frames.codec_mut().set_max_frame_length(MAX_FRAME);
    Ok(Session { frames, peer: theirs.who, outgoing: keys.seal("to listener"), incoming: keys.seal("to caller") })
}

/// The listener's part. A refusal is told to the caller as well.
pub async fn welcome(io: Box<dyn Transport>, me: &Who, secret: Option<&str>) -> Result<Session, HandshakeError> {
    let mut frames = frames(io);
    let (theirs, received) = receive_raw::<Hello>(&mut frames).await?;
    if let Err(e) = check(me, secret, &theirs) {
        let reason = if theirs.surus_store == PROTOCOL {
            let mirrored = check(&theirs.who, theirs.secret.then_some(""), &hello_of(me, secret));
            mirrored.err().unwrap_or_else(|| Broken(e.to_string())).to_string()
        } else {
            versions_differ(&describe(me), PROTOCOL, theirs.surus_store)
        };
        send(&mut frames, &Response::Refused { reason }).await?;
        return Err(e);
    }
    let sent = send(&mut frames, &Response::Hello(hello_of(me, secret))).await?;
    let keys = Keys::new(secret, &received, &sent);
    let (Proof { proof }, _) = receive_raw::<Proof>(&mut frames).await?;
    if !keys.accepts("caller", &proof) {
        let reason = format!("{} has another shared secret (raft.password)", me.addr);
        send(&mut frames, &Response::Refused { reason }).await?;
        return Err(Refused(format!("{} has another shared secret (raft.password)", describe(&theirs.who))));
    }
    send(&mut frames, &Response::Welcome { proof: keys.proof("listener") }).await?;
    frames.codec_mut().set_max_frame_length(MAX_FRAME);
    Ok(Session { frames, peer: theirs.who, outgoing: keys.seal("to caller"), incoming: keys.seal("to listener") })
}

fn hello_of(me: &Who, secret: Option<&str>) -> Hello {
    Hello { surus_store: PROTOCOL, who: me.clone(), nonce: nonce(), secret: secret.is_some() }
}

fn versions_differ(them: &str, theirs: u32, mine: u32) -> String {
    let older = if theirs < mine { "that one" } else { "this one" };
    format!("{them} speaks version {theirs} of the store's protocol, this one version {mine}; upgrade {older}")
}

fn describe(who: &Who) -> String {
    match who.node {
        Some(_) => format!("node {}", who.addr),
        None => "a client".to_owned(),
    }
}

/// Everything that can be wrong before secrets are compared, in words for the end that checks.
fn check(me: &Who, secret: Option<&str>, theirs: &Hello) -> Result<(), HandshakeError> {
    let them = describe(&theirs.who);
    if theirs.surus_store != PROTOCOL {
        return Err(Refused(versions_differ(&them, theirs.surus_store, PROTOCOL)));
    }
    match (secret.is_some(), theirs.secret) {
        (true, false) => return Err(Refused(format!("{them} has no shared secret; set raft.password there as well"))),
        (false, true) => return Err(Refused(format!("{them} wants a shared secret; set raft.password here as well"))),
        _ => {}
    }
    if let (Some(mine), Some(other)) = (&me.group, &theirs.who.group)
        && mine != other
    {
        if theirs.who.replaces.contains(mine) {
            return Err(Refused(format!(
                "the store group {mine} that this node belongs to had lost its majority and was recovered as the group \
                 {other} of {them}. This node is no part of that and never will be as it is: stop it, make sure that its \
                 PostgreSQL does not run, move its raft.data_dir away and start it, and it joins as a new one"
            )));
        }
        if me.replaces.contains(other) {
            return Err(Refused(format!(
                "{them} belongs to the store group {other}, which had lost its majority and was recovered as {mine}: it was \
                 said to be lost and is not. Stop it and its PostgreSQL, and move its raft.data_dir away"
            )));
        }
        return Err(Refused(format!(
            "{them} belongs to another store group ({other}, this one to {mine}); if it should not, stop it and move \
             its raft.data_dir away"
        )));
    }
    Ok(())
}

fn nonce() -> String {
    to_hex(&random::<32>())
}

async fn send<T: Serialize>(frames: &mut Frames, message: &T) -> Result<Vec<u8>, HandshakeError> {
    let bytes = serde_json::to_vec(message).map_err(|e| Broken(e.to_string()))?;
    frames.send(Bytes::from(bytes.clone())).await.map_err(|e| Broken(e.to_string()))?;
    Ok(bytes)
}

async fn receive_raw<T: DeserializeOwned>(frames: &mut Frames) -> Result<(T, Vec<u8>), HandshakeError> {
    match frames.next().await {
        Some(Ok(raw)) => match serde_json::from_slice(&raw) {
            Ok(message) => Ok((message, raw.to_vec())),
            Err(_) => Err(Broken("it does not speak the store's protocol".into())),
        },
        Some(Err(e)) => Err(Broken(e.to_string())),
        None => Err(Broken("it closed the connection".into())),
    }
}

/// Keys of one connection: from the secret and all that was said.
struct Keys {
    root: Option<[u8; 32]>,
}

impl Keys {
    fn new(secret: Option<&str>, caller: &[u8], listener: &[u8]) -> Keys {
        let root = secret.map(|s| {
            let length = |bytes: &[u8]| (bytes.len() as u64).to_be_bytes();
            hash(s.as_bytes(), &[b"surus store", &length(caller), caller, &length(listener), listener])
        });
        Keys { root }
    }

    fn proof(&self, side: &str) -> String {
        self.root.map(|root| to_hex(&hash(&root, &[b"proof", side.as_bytes()]))).unwrap_or_default()
    }

    fn accepts(&self, side: &str, proof: &str) -> bool {
        let Some(root) = self.root else { return true };
        let Some(given) = from_hex(proof) else { return false };
        keyed(&root, &[b"proof", side.as_bytes()]).verify_slice(&given).is_ok()
    }

    fn seal(&self, direction: &str) -> Seal {
        Seal { key: self.root.map(|root| hash(&root, &[b"frames", direction.as_bytes()])), count: 0 }
    }
}

fn keyed(key: &[u8], parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = match Hmac::<Sha256>::new_from_slice(key) {
        Ok(mac) => mac,
        Err(_) => unreachable!("HMAC takes keys of any length"),
    };
    parts.iter().for_each(|p| mac.update(p));
    mac
}

fn hash(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    keyed(key, parts).finalize().into_bytes().into()
}

/// Hashes for the frames of one direction.
pub struct Seal {
    key: Option<[u8; 32]>,
    count: u64,
}

impl Seal {
    pub fn close(&mut self, payload: Vec<u8>) -> Bytes {
        let Some(key) = self.key else { return payload.into() };
        let mac = hash(&key, &[&self.count.to_be_bytes(), &payload]);
        self.count += 1;
        let mut frame = payload;
        frame.extend_from_slice(&mac);
        frame.into()
    }

    /// `None` if the frame is not what the other end sent next.
    pub fn open(&mut self, mut frame: BytesMut) -> Option<BytesMut> {
        let Some(key) = self.key else { return Some(frame) };
        let at = frame.len().checked_sub(MAC_LEN)?;
        let mac = frame.split_off(at);
        keyed(&key, &[&self.count.to_be_bytes(), &frame]).verify_slice(&mac).ok()?;
        self.count += 1;
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(node: Option<u64>, group: Option<&str>) -> Who {
        Who { node, addr: format!("h{node:?}:1"), group: group.map(str::to_owned), replaces: vec![] }
    }

    type Ends = (Result<Session, HandshakeError>, Result<Session, HandshakeError>);

    async fn meet(caller: (Who, Option<&str>), listener: (Who, Option<&str>)) -> Ends {
        let (a, b) = tokio::io::duplex(64 << 10);
        tokio::join!(greet(Box::new(a), &caller.0, caller.1), welcome(Box::new(b), &listener.0, listener.1))
    }

    fn reason(result: Result<Session, HandshakeError>) -> String {
        match result {
            Ok(_) => panic!("was trusted"),
            Err(e) => e.to_string(),
        }
    }

    #[tokio::test]
    async fn equal_secrets_meet() {
        for secret in [None, Some("s3cret"), Some("")] {
            let (a, b) = meet((who(Some(1), None), secret), (who(Some(2), Some("g")), secret)).await;
            let (mut a, mut b) = (a.unwrap(), b.unwrap());
            assert_eq!((a.peer.node, b.peer.node), (Some(2), Some(1)));
            for text in ["one", "two"] {
                let frame = a.outgoing.close(text.into());
                assert_eq!(b.incoming.open(BytesMut::from(&frame[..])).unwrap(), text);
            }
        }
    }

    #[tokio::test]
    async fn both_sides_learn_what_is_wrong() {
        let cases = [
            (Some("a"), Some("b"), None, None, "another shared secret", "another shared secret"),
            (Some("a"), None, None, None, "has no shared secret", "wants a shared secret"),
            (None, Some("b"), None, None, "wants a shared secret", "has no shared secret"),
            (Some("a"), Some("a"), Some("g1"), Some("g2"), "another store group (g2", "another store group (g1"),
        ];
        for (s1, s2, g1, g2, at_caller, at_listener) in cases {
            let (a, b) = meet((who(Some(1), g1), s1), (who(Some(2), g2), s2)).await;
            let (a, b) = (reason(a), reason(b));
            assert!(a.contains(at_caller), "{a}");
            assert!(b.contains(at_listener) && b.contains("h"), "{b}");
        }
    }

    #[tokio::test]
    async fn a_node_of_a_group_that_was_recovered_is_told() {
        let new = || Who { replaces: vec!["g0".into(), "g1".into()], ..who(Some(1), Some("g2")) };
        let old = || who(Some(2), Some("g1"));
        let (caller, listener) = meet((new(), Some("a")), (old(), Some("a"))).await;
        assert!(reason(caller).contains("said to be lost and is not"));
        assert!(reason(listener).contains("recovered as the group g2"));
        let (caller, listener) = meet((old(), Some("a")), (new(), Some("a"))).await;
        assert!(reason(caller).contains("recovered as the group g2"));
        assert!(reason(listener).contains("said to be lost and is not"));
    }

    /// The next version of the protocol at either end: both say which versions they speak.
    #[tokio::test]
    async fn another_version_of_the_protocol_is_named_at_both_ends() {
        let other = r#"{"surus_store":2,"who":{"node":2,"addr":"h2:1","group":"g","new":[1]},"nonce":"00","secret":true,"more":{}}"#;
        let (a, b) = tokio::io::duplex(64 << 10);
        let me = who(Some(1), Some("g"));
        let next = async {
            let mut f = frames(Box::new(b));
            f.send(Bytes::from(other)).await.unwrap();
            receive_raw::<Response>(&mut f).await.unwrap().0
        };
        let (mine, theirs) = tokio::join!(welcome(Box::new(a), &me, Some("s")), next);
        assert!(
            reason(mine)
                .contains("node h2:1 speaks version 2 of the store's protocol, this one version 1; upgrade this one")
        );
        let Response::Refused { reason: told } = theirs else { panic!("not refused") };
        assert!(told.contains("node h"), "{told}");
        assert!(
            told.contains("speaks version 1 of the store's protocol, this one version 2; upgrade that one"),
            "{told}"
        );

        let (a, b) = tokio::io::duplex(64 << 10);
        let next = async {
            let mut f = frames(Box::new(b));
            receive_raw::<Hello>(&mut f).await.unwrap();
            f.send(Bytes::from(format!(r#"{{"Hello":{other}}}"#))).await.unwrap();
        };
        let (mine, ()) = tokio::join!(greet(Box::new(a), &me, Some("s")), next);
        assert!(
            reason(mine)
                .contains("node h2:1 speaks version 2 of the store's protocol, this one version 1; upgrade this one")
        );
    }

    #[tokio::test]
    async fn frames_cannot_be_changed_repeated_or_reflected() {
        let (a, b) = meet((who(None, None), Some("s")), (who(Some(2), None), Some("s"))).await;
        let (mut a, mut b) = (a.unwrap(), b.unwrap());
        let frame = BytesMut::from(&a.outgoing.close(b"pay 1".to_vec())[..]);
        let mut changed = frame.clone();
        changed[4] = b'9';
        assert!(b.incoming.open(changed).is_none());
        assert!(a.incoming.open(frame.clone()).is_none(), "reflected");
        assert!(b.incoming.open(frame.clone()).is_some());
        assert!(b.incoming.open(frame).is_none(), "repeated");
        assert!(b.incoming.open(BytesMut::from("short")).is_none());
    }

    #[tokio::test]
    async fn a_listener_that_does_not_know_the_secret_is_found_out() {
        let (a, b) = tokio::io::duplex(64 << 10);
        let listener = tokio::spawn(async move {
            let mut f = frames(Box::new(b));
            let (theirs, _) = receive_raw::<Hello>(&mut f).await.unwrap();
            let reply = Hello { who: who(Some(2), None), ..theirs };
            send(&mut f, &Response::Hello(reply)).await.unwrap();
            let (proof, _) = receive_raw::<Proof>(&mut f).await.unwrap();
            // The best a stranger can do is to say what it heard.
            send(&mut f, &Response::Welcome { proof: proof.proof }).await.unwrap();
        });
        let text = reason(greet(Box::new(a), &who(Some(1), None), Some("s")).await);
        assert!(text.contains("does not know the shared secret"), "{text}");
        listener.await.unwrap();
    }

    #[tokio::test]
    async fn garbage_is_turned_away() {
        use tokio::io::AsyncWriteExt;
        for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x00\x00\x00\x02{}", b"\x16\x03\x01\x02\x00\x01", b""] {
            let (mut a, b) = tokio::io::duplex(1024);
            a.write_all(garbage).await.unwrap();
            a.shutdown().await.unwrap();
            assert!(matches!(welcome(Box::new(b), &who(Some(2), None), Some("s")).await, Err(Broken(_))));
        }
    }
}
