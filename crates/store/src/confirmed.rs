//! When a server's word that it has renewed a lease can be relied on.
//!
//! etcd and Consul keep the time of leases in the memory of the server that leads, and confirm a renewal from there without
//! asking the others. One that was frozen while another was elected does so for what waits in its sockets, in the moment it
//! wakes up and before it hears of the other, which knows nothing of it: the lease ends as if nothing had been renewed,
//! under an agent that believes in it for its whole time. Such an answer takes as long as an election or longer. So one
//! that took long is not believed: the server is given a moment to hear, and asked again.

use std::time::Duration;

/// In which a server that leads no more and asks the others, or is asked by them, hears that.
pub const HEARD: Duration = Duration::from_millis(100);

/// Whether a confirmation that took so long was begun and ended under one leader, after so many that took too long. The
/// servers miss a leader for a second at least, if they are not set to be hastier than their makers advise. That one freezes
/// and wakes at two renewals in a row, each time within that moment, is as good as impossible: so a server that is slow
/// every time is believed in the end.
pub fn before_an_election(took: Duration, earlier: u32) -> bool {
    match earlier {
        0 => took <= Duration::from_millis(250),
        1 => took <= Duration::from_millis(750),
        _ => true,
    }
}

/// Why nothing was confirmed in time.
pub fn took_too_long(took: Duration) -> String {
    format!("it took {took:.1?} to renew it, in which another server may have been elected; that does not count")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_confirmations_are_asked_for_again() {
        let ms = Duration::from_millis;
        for (took, earlier, counts) in [
            (ms(3), 0, true),
            (ms(250), 0, true),
            (ms(251), 0, false),
            (ms(25_000), 0, false),
            (ms(251), 1, true),
            (ms(750), 1, true),
            (ms(751), 1, false),
            (ms(2_000), 2, true),
            (ms(25_000), 7, true),
        ] {
            assert_eq!(before_an_election(took, earlier), counts, "{took:?} after {earlier}");
        }
    }
}
