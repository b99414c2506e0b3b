//! Waiting for one of two things, always asked in the same order: a run can be repeated.

use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};

use crate::task::Hands;

/// What comes first; `a`, when both are there. The other one is dropped.
pub async fn first<A: Future, B: Future>(a: A, b: B) -> Either<A::Output, B::Output> {
    let (a, b) = (pin!(a), pin!(b));
    match select(a, b).await {
        Either::Left((a, _)) => Either::Left(a),
        Either::Right((b, _)) => Either::Right(b),
    }
}

/// `None`: not within `limit`, and dropped.
pub async fn within<F: Future>(hands: &impl Hands, limit: Duration, work: F) -> Option<F::Output> {
    match first(work, hands.sleep(limit)).await {
        Either::Left(done) => Some(done),
        Either::Right(()) => None,
    }
}
