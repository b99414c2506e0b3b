//! Who reaches whom. Links are one-way: a broken pair needs both.

/// A machine, by number, or the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Node(usize),
    Store,
}

#[derive(Clone, Debug)]
pub struct Network {
    nodes: usize,
    cut: Vec<bool>,
    /// Slow links from and to a machine, in microseconds on top.
    slow: Vec<u64>,
}

impl Network {
    pub fn new(nodes: usize) -> Network {
        Network { nodes, cut: vec![false; (nodes + 1) * (nodes + 1)], slow: vec![0; nodes + 1] }
    }

    fn number(&self, end: End) -> usize {
        match end {
            End::Node(i) => i,
            End::Store => self.nodes,
        }
    }

    fn index(&self, from: End, to: End) -> usize {
        self.number(from) * (self.nodes + 1) + self.number(to)
    }

    pub fn set_cut(&mut self, from: End, to: End, cut: bool) {
        let index = self.index(from, to);
        self.cut[index] = cut;
    }

    pub fn set_slow(&mut self, end: End, us: u64) {
        let index = self.number(end);
        self.slow[index] = us;
    }

    pub fn passes(&self, from: End, to: End) -> bool {
        from == to || !self.cut[self.index(from, to)]
    }

    pub fn both_ways(&self, a: End, b: End) -> bool {
        self.passes(a, b) && self.passes(b, a)
    }

    pub fn delay(&self, from: End, to: End) -> u64 {
        self.slow[self.number(from)] + self.slow[self.number(to)]
    }

    pub fn heal(&mut self) {
        self.cut.fill(false);
        self.slow.fill(0);
    }
}
