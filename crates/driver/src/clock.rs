//! Time from outside: read here, and into the fold only through ticks.

use std::{
    sync::{Mutex, PoisonError},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// Wall time in milliseconds since 1970.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now_ms(&self) -> u64;
}

/// Wall time that never goes back and never jumps: when the system's clock is set, this one follows at up to half
/// as fast again, or half as fast.
#[derive(Debug)]
pub struct SlewedClock {
    last: Mutex<(Instant, f64)>,
}

fn wall_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64() * 1e3)
}

impl SlewedClock {
    /// Starts at the system's time, or at `not_before_ms` if that is later.
    #[must_use]
    pub fn new(not_before_ms: u64) -> Self {
        Self { last: Mutex::new((Instant::now(), wall_ms().max(not_before_ms as f64))) }
    }
}

/// Where a slewed clock that showed `shown` goes after `elapsed` milliseconds when the wall shows `wall`.
fn slew(shown: f64, elapsed: f64, wall: f64) -> f64 {
    wall.clamp(shown + 0.5 * elapsed, shown + 1.5 * elapsed)
}

impl Clock for SlewedClock {
    fn now_ms(&self) -> u64 {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let elapsed = now.duration_since(last.0).as_secs_f64() * 1e3;
        *last = (now, slew(last.1, elapsed, wall_ms()));
        last.1 as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_is_followed_slowly() {
        assert_eq!(slew(1000.0, 10.0, 1010.0), 1010.0);
        assert_eq!(slew(1000.0, 10.0, 1e12), 1015.0);
        assert_eq!(slew(1000.0, 10.0, 0.0), 1005.0);
        let mut shown = 1000.0;
        for step in 1..=20_000 {
            shown = slew(shown, 1.0, 5000.0 + f64::from(step));
        }
        assert_eq!(shown, 25_000.0);
    }
}
