//! Numbers of timelines: those left out, and one given twice.

use std::fs;

use surus_core::Timeline;
use surus_core::loss::{Destroying, Recorded};
use surus_postgres::{Divergence, ErrorKind, Instance, StartAs, StopMode};

use crate::common::{LIMIT, Site, eventually, no_progress, one, upstream};
use crate::{archive, follows, insert, parted, token};

/// Numbers that others may have given are left out: the new history names its real parent only, nothing of that reaches
/// the archive, and whoever was on the old timeline follows, also when it starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_leaves_numbers_out() {
    let site = Site::new();
    let (a, b) = parted(&site).await;
    fs::write(archive(&site).join("open"), "").unwrap();
    // One that goes on replaying, and one that is copied, stopped and does not see what follows.
    let (c, d) = (site.instance("c"), site.instance("d"));
    let mut config = (*c.config()).clone();
    let archives =
        [("archive_mode", "on".to_owned()), ("archive_command", format!("cp %p {}/%f", archive(&site).display()))];
    config.parameters.extend(archives.map(|(k, v)| (k.to_owned(), v)));
    c.set_config(config);
    for standby in [&c, &d] {
        standby.basebackup(&upstream(&b), &no_progress(), &token()).await.unwrap();
        follows(standby, &b).await;
    }
    d.stop(StopMode::Fast, Some(LIMIT)).await.unwrap();
    b.stop(StopMode::Fast, Some(LIMIT)).await.unwrap();
    let history = |of: &Instance, n: u32| of.config().data_dir.join(format!("pg_wal/{n:08X}.history"));

    assert_eq!(c.next_timeline().await.unwrap(), Timeline(3));
    c.skip_timelines(Timeline(3), Timeline(6)).await.unwrap();
    assert_eq!(c.next_timeline().await.unwrap(), Timeline(6));
    // It is not promoted after all: another one may begin just these.
    c.follow(Some(&upstream(&a)), None).await.unwrap();
    assert_eq!(c.next_timeline().await.unwrap(), Timeline(3));
    c.skip_timelines(Timeline(3), Timeline(6)).await.unwrap();
    c.stop(StopMode::Fast, Some(LIMIT)).await.unwrap();
    c.start(&StartAs::standby_of(upstream(&b), None), LIMIT).await.unwrap();
    assert_eq!(c.next_timeline().await.unwrap(), Timeline(3), "a standby that starts with such files waits for ever");

    c.skip_timelines(Timeline(3), Timeline(6)).await.unwrap();
    c.promote().await.unwrap();
    assert_eq!(c.wait_promoted(LIMIT).await.unwrap(), Timeline(6));
    let parents =
        |text: &str| -> Vec<u32> { text.lines().filter_map(|l| l.split('\t').next()?.trim().parse().ok()).collect() };
    assert_eq!(parents(&fs::read_to_string(history(&c, 6)).unwrap()), [1, 2]);
    one(&c, "INSERT INTO public.t VALUES (2); SELECT pg_switch_wal()::text").await;
    eventually("the archive has the history", || async { archive(&site).join("00000006.history").exists() }).await;
    for n in 3..6 {
        assert!(!archive(&site).join(format!("{n:08X}.history")).exists(), "a placeholder was archived");
    }

    // What stopped before, and what wrote meanwhile on a timeline that was left out.
    let fork = |of: &Instance| {
        let of = of.clone();
        let to = upstream(&c);
        async move { of.divergence(&to, LIMIT).await.unwrap() }
    };
    assert_eq!(fork(&d).await, Divergence::None);
    follows(&d, &c).await;
    d.kill_hard().await.unwrap();
    follows(&d, &c).await;
    b.start(&StartAs::standby_of(upstream(&a), None), LIMIT).await.unwrap();
    b.promote().await.unwrap();
    assert_eq!(b.wait_promoted(LIMIT).await.unwrap(), Timeline(3));
    one(&b, "INSERT INTO public.t VALUES (3); SELECT pg_switch_wal()::text").await;
    b.stop(StopMode::Fast, Some(LIMIT)).await.unwrap();
    assert!(matches!(fork(&b).await, Divergence::Unrelated { .. }), "{:?}", fork(&b).await);
    let recorded = b.record_loss(&upstream(&c), Destroying::Rewind, LIMIT, &token()).await.unwrap();
    assert!(matches!(&recorded, Recorded::Receipt(text) if text.contains("1 transaction")), "{recorded:?}");
    c.checkpoint(LIMIT).await.unwrap();
    b.rewind(&upstream(&c), LIMIT, &no_progress(), &token()).await.unwrap();
    follows(&b, &c).await;
    for of in [&b, &d] {
        eventually("all rows", || async {
            one(of, "SELECT string_agg(n::text, ',' ORDER BY n) FROM public.t").await == "1,2"
        })
        .await;
    }
    // Nothing is left out from here on, wherever the files came from.
    b.promote().await.unwrap();
    assert_eq!(b.wait_promoted(LIMIT).await.unwrap(), Timeline(7));
}

/// Each of two sites promotes a standby of its own, and both give the same number to the timeline that begins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_number_for_two_timelines() {
    let site = Site::new();
    let a = site.primary("a").await;
    one(&a, "CREATE TABLE public.t (n int); INSERT INTO public.t VALUES (1); SELECT 1").await;
    let (b, c) = (site.instance("b"), site.instance("c"));
    for standby in [&b, &c] {
        standby.basebackup(&upstream(&a), &no_progress(), &token()).await.unwrap();
        standby.start(&StartAs::standby_of(upstream(&a), None), LIMIT).await.unwrap();
    }
    let has_all = async |standby: &Instance| {
        let flushed = a.observe(LIMIT).await.unwrap().flush_lsn;
        eventually("it has all", || async { standby.observe(LIMIT).await.unwrap().replay_lsn >= flushed }).await;
    };
    has_all(&b).await;
    b.promote().await.unwrap();
    assert_eq!(b.wait_promoted(LIMIT).await.unwrap(), Timeline(2));
    b.checkpoint(LIMIT).await.unwrap();
    insert(&a, 2).await;
    has_all(&c).await;
    c.promote().await.unwrap();
    assert_eq!(c.wait_promoted(LIMIT).await.unwrap(), Timeline(2));
    insert(&c, 3).await;
    c.stop(StopMode::Fast, Some(LIMIT)).await.unwrap();
    insert(&b, 4).await;

    let found = c.divergence(&upstream(&b), LIMIT).await.unwrap();
    assert!(matches!(found, Divergence::SameNumber { timeline: Timeline(2), .. }), "{found:?}");
    let refused = c.rewind(&upstream(&b), LIMIT, &no_progress(), &token()).await.unwrap_err();
    assert!(
        refused.kind == ErrorKind::Refused && refused.to_string().contains("number 2 to two timelines"),
        "{refused}"
    );

    // With another number there it can be told, and mended.
    b.stop(StopMode::Fast, Some(LIMIT)).await.unwrap();
    b.start(&StartAs::Standby { upstream: None, slot: None }, LIMIT).await.unwrap();
    b.promote().await.unwrap();
    assert_eq!(b.wait_promoted(LIMIT).await.unwrap(), Timeline(3));
    b.checkpoint(LIMIT).await.unwrap();
    let found = c.divergence(&upstream(&b), LIMIT).await.unwrap();
    assert!(matches!(found, Divergence::Forked { timeline: Timeline(1), .. }), "{found:?}");
    c.rewind(&upstream(&b), LIMIT, &no_progress(), &token()).await.unwrap();
    c.start(&StartAs::standby_of(upstream(&b), None), LIMIT).await.unwrap();
    eventually("c follows b", || async { c.observe(LIMIT).await.is_ok_and(|o| o.is_streaming()) }).await;
    eventually("c has what b has", || async {
        one(&c, "SELECT string_agg(n::text, ' ' ORDER BY n) FROM public.t").await == "1 4"
    })
    .await;
}
