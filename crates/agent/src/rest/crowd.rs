//! How many connections each address has: one client is not to take the places of all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Clone, Default)]
pub struct Crowd(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// Counted until it is dropped.
pub struct Seat {
    crowd: Crowd,
    client: IpAddr,
}

impl Crowd {
    /// Nothing when the address has as many as it may.
    pub fn enter(&self, address: IpAddr, most: usize) -> Option<Seat> {
        let client = client(address);
        let mut crowd = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = crowd.entry(client).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        drop(crowd);
        Some(Seat { crowd: self.clone(), client })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut crowd = self.crowd.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = crowd.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                crowd.remove(&self.client);
            }
        }
    }
}

/// Whoever has one address of IPv6 has its network of 64 bits.
fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_share() {
        let crowd = Crowd::default();
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        let first = crowd.enter(at("10.0.0.1"), 2).unwrap();
        let second = crowd.enter(at("::ffff:10.0.0.1"), 2).unwrap();
        assert!(crowd.enter(at("10.0.0.1"), 2).is_none());
        let other = crowd.enter(at("10.0.0.2"), 2).unwrap();
        drop(first);
        let again = crowd.enter(at("10.0.0.1"), 2).unwrap();
        assert!(crowd.enter(at("10.0.0.1"), 2).is_none());

        let v6: Vec<Seat> = ["2001:db8::1", "2001:db8::2"].map(|a| crowd.enter(at(a), 2).unwrap()).into();
        assert!(crowd.enter(at("2001:db8::3"), 2).is_none(), "the same network");
        assert!(crowd.enter(at("2001:db8:0:1::3"), 2).is_some(), "another one");
        drop((v6, again, second, other));
        assert!(crowd.0.lock().unwrap().is_empty(), "nothing is kept of who is gone");
    }
}
