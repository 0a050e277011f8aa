//! The waiting line. Pure: it is told what happens and says who is admitted.

use std::collections::BTreeMap;

use super::Priority;
use crate::units::Bytes;

/// A place in line; later arrivals have later tickets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// What came of an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It runs.
    Admitted,
    /// It waits.
    Queued {
        /// Its place.
        ticket: Ticket,
        /// How many are before it.
        ahead: usize,
    },
    /// It was turned away.
    Refused,
}

/// Why the first in line does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Nothing new starts at all.
    Refusing,
    /// New queries are held while another runs.
    Queueing,
    /// As many run as may.
    Number,
    /// Its memory does not fit beside those who run.
    Memory,
}

/// Who runs and who waits. Only the first in line is ever admitted, so that a large query is not overtaken for ever by
/// small ones behind it. One query always may run, however much it asks for, unless new ones are refused.
///
/// Whatever makes room returns the tickets that it admits, in order; they count as running from then on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    limit: usize,
    capacity: Bytes,
    queueing: bool,
    refusing: bool,
    running: usize,
    /// The sum of the demands of those who run; wider than one demand, so that it never saturates and stays exact.
    held: u128,
    waiting: BTreeMap<(Priority, Ticket), Bytes>,
    tickets: u64,
}

impl Line {
    /// A line in which nobody runs or waits.
    pub fn new(limit: usize, capacity: Bytes) -> Self {
        Line {
            limit: limit.max(1),
            capacity,
            queueing: false,
            refusing: false,
            running: 0,
            held: 0,
            waiting: BTreeMap::new(),
            tickets: 0,
        }
    }

    /// Someone arrives who needs `memory`.
    pub fn arrive(&mut self, priority: Priority, memory: Bytes) -> Arrival {
        if self.refusing {
            return Arrival::Refused;
        }
        let ticket = Ticket(self.tickets);
        self.tickets += 1;
        let ahead = self.ahead(priority, ticket);
        if ahead == 0 && self.obstacle(memory).is_none() {
            self.start(memory);
            return Arrival::Admitted;
        }
        self.waiting.insert((priority, ticket), memory);
        Arrival::Queued { ticket, ahead }
    }

    /// Someone who ran with `memory` is done.
    #[must_use]
    pub fn leave(&mut self, memory: Bytes) -> Vec<Ticket> {
        debug_assert!(
            self.running > 0 && self.held >= u128::from(memory.get()),
            "a permit was given back twice"
        );
        self.running = self.running.saturating_sub(1);
        self.held = self.held.saturating_sub(u128::from(memory.get()));
        self.advance()
    }

    /// Someone gives up waiting. Nothing happens if `ticket` does not wait.
    #[must_use]
    pub fn expire(&mut self, ticket: Ticket) -> Vec<Ticket> {
        self.waiting.retain(|(_, other), _| *other != ticket);
        self.advance()
    }

    /// How many may run at once; at least one.
    #[must_use]
    pub fn set_limit(&mut self, limit: usize) -> Vec<Ticket> {
        self.limit = limit.max(1);
        self.advance()
    }

    /// What the demands of those who run may come to.
    #[must_use]
    pub fn set_capacity(&mut self, capacity: Bytes) -> Vec<Ticket> {
        self.capacity = capacity;
        self.advance()
    }

    /// Whether new queries are held: one starts only when nothing runs.
    #[must_use]
    pub fn queue_new(&mut self, on: bool) -> Vec<Ticket> {
        self.queueing = on;
        self.advance()
    }

    /// Whether new queries are turned away. Those who wait already stay in line.
    #[must_use]
    pub fn refuse_new(&mut self, on: bool) -> Vec<Ticket> {
        self.refusing = on;
        self.advance()
    }

    /// How many run.
    pub fn running(&self) -> usize {
        self.running
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many may run.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// What the demands may come to.
    pub fn capacity(&self) -> Bytes {
        self.capacity
    }

    /// What the demands of those who run come to.
    pub fn held(&self) -> Bytes {
        Bytes(u64::try_from(self.held).unwrap_or(u64::MAX))
    }

    /// How many wait before `ticket`.
    pub fn ahead(&self, priority: Priority, ticket: Ticket) -> usize {
        self.waiting.range(..(priority, ticket)).count()
    }

    /// Why someone who needs `memory` could not start now even as the first in line.
    pub fn obstacle(&self, memory: Bytes) -> Option<Obstacle> {
        if self.refusing {
            Some(Obstacle::Refusing)
        } else if self.running == 0 {
            None
        } else if self.queueing {
            Some(Obstacle::Queueing)
        } else if self.running >= self.limit {
            Some(Obstacle::Number)
        } else if self.held + u128::from(memory.get()) > u128::from(self.capacity.get()) {
            Some(Obstacle::Memory)
        } else {
            None
        }
    }

    /// Why someone who waits and needs `memory` has to: its own obstacle, else that of the first in line.
    pub fn obstacle_before(&self, memory: Bytes) -> Option<Obstacle> {
        let first = || {
            self.waiting
                .values()
                .next()
                .and_then(|first| self.obstacle(*first))
        };
        self.obstacle(memory).or_else(first)
    }

    fn start(&mut self, memory: Bytes) {
        self.running += 1;
        self.held += u128::from(memory.get());
    }

    fn advance(&mut self) -> Vec<Ticket> {
        let mut admitted = Vec::new();
        while let Some(first) = self.waiting.first_entry() {
            let memory = *first.get();
            if self.obstacle(memory).is_some() {
                break;
            }
            if let Some(((_, ticket), _)) = self.waiting.pop_first() {
                self.start(memory);
                admitted.push(ticket);
            }
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(limit: usize) -> Line {
        Line::new(limit, Bytes(100))
    }

    fn queued(line: &mut Line, priority: Priority, memory: u64) -> Ticket {
        match line.arrive(priority, Bytes(memory)) {
            Arrival::Queued { ticket, .. } => ticket,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn whoever_fits_is_admitted_and_the_next_waits_for_a_place() {
        let mut line = line(2);
        assert_eq!(line.arrive(Priority::Normal, Bytes(10)), Arrival::Admitted);
        assert_eq!(line.arrive(Priority::Normal, Bytes(10)), Arrival::Admitted);
        let third = queued(&mut line, Priority::Normal, 10);
        assert_eq!(line.obstacle(Bytes(10)), Some(Obstacle::Number));
        assert_eq!(line.leave(Bytes(10)), [third]);
    }

    #[test]
    fn priority_goes_before_arrival() {
        let mut line = line(1);
        assert_eq!(line.arrive(Priority::Low, Bytes(1)), Arrival::Admitted);
        let low = queued(&mut line, Priority::Low, 1);
        let normal = queued(&mut line, Priority::Normal, 1);
        let high = queued(&mut line, Priority::High, 1);
        let second_high = queued(&mut line, Priority::High, 1);
        for ticket in [high, second_high, normal, low] {
            assert_eq!(line.leave(Bytes(1)), [ticket]);
        }
    }

    #[test]
    fn the_number_ahead_counts_only_those_who_go_first() {
        let mut line = line(1);
        assert_eq!(line.arrive(Priority::Low, Bytes(1)), Arrival::Admitted);
        queued(&mut line, Priority::Low, 1);
        assert!(matches!(
            line.arrive(Priority::High, Bytes(1)),
            Arrival::Queued { ahead: 0, .. }
        ));
        assert!(matches!(
            line.arrive(Priority::Normal, Bytes(1)),
            Arrival::Queued { ahead: 1, .. }
        ));
        assert!(matches!(
            line.arrive(Priority::Low, Bytes(1)),
            Arrival::Queued { ahead: 3, .. }
        ));
    }

    #[test]
    fn a_large_query_is_not_overtaken_by_small_ones_behind_it() {
        let mut line = line(8);
        assert_eq!(line.arrive(Priority::Normal, Bytes(60)), Arrival::Admitted);
        let large = queued(&mut line, Priority::Normal, 90);
        let small = queued(&mut line, Priority::Normal, 10);
        assert_eq!(line.obstacle(Bytes(10)), None);
        assert_eq!(line.obstacle_before(Bytes(10)), Some(Obstacle::Memory));
        assert_eq!(line.leave(Bytes(60)), [large, small]);
    }

    #[test]
    fn a_query_larger_than_the_capacity_runs_alone() {
        let mut line = line(8);
        assert_eq!(line.arrive(Priority::Normal, Bytes(u64::MAX)), Arrival::Admitted);
        let next = queued(&mut line, Priority::Normal, u64::MAX);
        assert_eq!(line.leave(Bytes(u64::MAX)), [next]);
        assert_eq!(line.held(), Bytes(u64::MAX));
    }

    #[test]
    fn one_who_gives_up_makes_way_for_those_behind() {
        let mut line = line(8);
        assert_eq!(line.arrive(Priority::Normal, Bytes(60)), Arrival::Admitted);
        let large = queued(&mut line, Priority::Normal, 90);
        let small = queued(&mut line, Priority::Normal, 10);
        assert_eq!(line.expire(large), [small]);
        assert_eq!(line.expire(large), []);
    }

    #[test]
    fn queueing_holds_new_ones_but_never_the_only_one() {
        let mut line = line(8);
        assert_eq!(line.queue_new(true), []);
        assert_eq!(line.arrive(Priority::Normal, Bytes(1)), Arrival::Admitted);
        let second = queued(&mut line, Priority::Normal, 1);
        let third = queued(&mut line, Priority::Normal, 1);
        assert_eq!(line.leave(Bytes(1)), [second]);
        assert_eq!(line.queue_new(false), [third]);
    }

    #[test]
    fn refusing_turns_away_the_new_and_keeps_those_in_line() {
        let mut line = line(1);
        assert_eq!(line.arrive(Priority::Normal, Bytes(1)), Arrival::Admitted);
        let waits = queued(&mut line, Priority::Normal, 1);
        assert_eq!(line.refuse_new(true), []);
        assert_eq!(line.arrive(Priority::High, Bytes(1)), Arrival::Refused);
        assert_eq!(line.leave(Bytes(1)), []);
        assert_eq!(line.refuse_new(false), [waits]);
    }

    #[test]
    fn a_lowered_limit_stops_nobody_and_a_raised_one_admits_at_once() {
        let mut line = line(3);
        for _ in 0..3 {
            assert_eq!(line.arrive(Priority::Normal, Bytes(1)), Arrival::Admitted);
        }
        let waits = queued(&mut line, Priority::Normal, 1);
        assert_eq!(line.set_limit(0), []);
        assert_eq!((line.running(), line.limit()), (3, 1));
        assert_eq!(line.leave(Bytes(1)), []);
        assert_eq!(line.set_limit(3), [waits]);
    }

    #[derive(Clone, Debug)]
    enum Happening {
        Arrive(Priority, u64),
        Leave(usize),
        Expire(usize),
        SetLimit(usize),
        SetCapacity(u64),
        Queue(bool),
        Refuse(bool),
    }

    fn happening() -> impl Strategy<Value = Happening> {
        let priority = prop_oneof![Just(Priority::High), Just(Priority::Normal), Just(Priority::Low)];
        prop_oneof![
            6 => (priority, 0u64..120).prop_map(|(priority, memory)| Happening::Arrive(priority, memory)),
            4 => (0usize..9).prop_map(Happening::Leave),
            1 => (0usize..9).prop_map(Happening::Expire),
            1 => (0usize..5).prop_map(Happening::SetLimit),
            1 => (0u64..150).prop_map(Happening::SetCapacity),
            1 => any::<bool>().prop_map(Happening::Queue),
            1 => any::<bool>().prop_map(Happening::Refuse),
        ]
    }

    /// What an onlooker knows who writes down every arrival and every admission.
    #[derive(Default)]
    struct Record {
        running: Vec<u64>,
        waiting: BTreeMap<(Priority, Ticket), u64>,
    }

    impl Record {
        fn no_permit_is_lost_or_doubled(&self, line: &Line) {
            assert_eq!(
                (line.running(), line.waiting()),
                (self.running.len(), self.waiting.len())
            );
            assert_eq!(line.held().get(), self.running.iter().sum::<u64>());
        }

        fn the_first_in_line_waits_for_a_reason(&self, line: &Line) {
            if let Some(memory) = self.waiting.values().next() {
                assert!(line.obstacle(Bytes(*memory)).is_some());
            }
            assert!(self.waiting.is_empty() || !self.running.is_empty() || line.refusing);
        }

        /// Admission (unlike a limit that is lowered later) never goes over a limit, but for the only one.
        fn admitted(&mut self, line: &Line, memory: u64) {
            self.running.push(memory);
            assert!(!line.refusing);
            if self.running.len() > 1 {
                assert!(!line.queueing && self.running.len() <= line.limit());
                assert!(self.running.iter().sum::<u64>() <= line.capacity().get());
            }
        }

        fn admitted_in_order(&mut self, line: &Line, tickets: &[Ticket]) {
            for ticket in tickets {
                let ((_, first), memory) = self.waiting.pop_first().unwrap();
                assert_eq!(first, *ticket, "admitted out of turn");
                self.admitted(line, memory);
            }
        }
    }

    fn apply(line: &mut Line, record: &mut Record, happening: &Happening) {
        let tickets = match *happening {
            Happening::Arrive(priority, memory) => {
                match line.arrive(priority, Bytes(memory)) {
                    Arrival::Admitted => {
                        assert!(
                            record.waiting.keys().all(|(waiting, _)| *waiting > priority),
                            "pushed in"
                        );
                        record.admitted(line, memory);
                    }
                    Arrival::Queued { ticket, ahead } => {
                        let before = record
                            .waiting
                            .keys()
                            .filter(|(waiting, _)| *waiting <= priority)
                            .count();
                        assert_eq!(ahead, before);
                        record.waiting.insert((priority, ticket), memory);
                    }
                    Arrival::Refused => assert!(line.refusing),
                }
                vec![]
            }
            Happening::Leave(index) if index < record.running.len() => {
                let memory = record.running.swap_remove(index);
                line.leave(Bytes(memory))
            }
            Happening::Expire(index) => match record.waiting.keys().nth(index).copied() {
                Some(key) => {
                    record.waiting.remove(&key);
                    line.expire(key.1)
                }
                None => vec![],
            },
            Happening::Leave(_) => vec![],
            Happening::SetLimit(limit) => line.set_limit(limit),
            Happening::SetCapacity(capacity) => line.set_capacity(Bytes(capacity)),
            Happening::Queue(on) => line.queue_new(on),
            Happening::Refuse(on) => line.refuse_new(on),
        };
        record.admitted_in_order(line, &tickets);
    }

    proptest! {
        #[test]
        fn whatever_happens_the_line_keeps_count_order_and_limits_and_everyone_gets_through(
            happenings in proptest::collection::vec(happening(), 0..120),
        ) {
            let mut line = line(3);
            let mut record = Record::default();
            for happening in &happenings {
                apply(&mut line, &mut record, happening);
                record.no_permit_is_lost_or_doubled(&line);
                record.the_first_in_line_waits_for_a_reason(&line);
            }
            apply(&mut line, &mut record, &Happening::Refuse(false));
            while !record.running.is_empty() {
                apply(&mut line, &mut record, &Happening::Leave(0));
                record.no_permit_is_lost_or_doubled(&line);
            }
            prop_assert_eq!((line.running(), line.waiting()), (0, 0));
        }
    }
}
