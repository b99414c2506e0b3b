//! The store contract on a ZooKeeper ensemble (`spec/dcs.md §8`).
