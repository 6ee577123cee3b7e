//! The rate of a gradient learner over time.

use core::f64::consts::PI;

use pawl_domain::spec::{Schedule, Shape};

/// The rate at `t` units since the schedule began.
#[must_use]
pub fn rate(schedule: &Schedule, t: f64) -> f64 {
    let Schedule { initial, floor, warm_up, .. } = *schedule;
    if t < warm_up {
        return initial * (t + 1.0) / (warm_up + 1.0);
    }
    let t = t - warm_up;
    match schedule.shape {
        Shape::Constant => initial,
        Shape::Exponential(decay, per) => (initial * libm::pow(decay, t / per)).max(floor),
        Shape::InversePower(power, per) => (initial * libm::pow(per / (per + t), power)).max(floor),
        Shape::Cosine(period, restart) => {
            let (begun, period) = match restart {
                None if t >= period => return floor,
                None => (0.0, period),
                Some(growth) => cycle(t, period, growth),
            };
            floor + (initial - floor) * (1.0 + libm::cos(PI * (t - begun) / period)) / 2.0
        }
    }
}

/// When the cycle that holds `t` began, and how long it is.
fn cycle(t: f64, period: f64, growth: f64) -> (f64, f64) {
    if growth <= 1.0 {
        return ((t / period).floor() * period, period);
    }
    let (mut begun, mut length) = (0.0, period);
    while t >= begun + length {
        begun += length;
        length *= growth;
    }
    (begun, length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pawl_domain::spec::ScheduleUnit;

    fn schedule(shape: Shape, floor: f64, warm_up: f64) -> Schedule {
        Schedule { shape, initial: 0.5, floor, warm_up, unit: ScheduleUnit::Examples }
    }

    /// torch.optim.lr_scheduler.CosineAnnealingLR: η_min + (η_0 − η_min)(1 + cos(π T_cur / T_max))/2 with η_0 = .5,
    /// η_min = .1, T_max = 4: .5, .1 + .2(1 + √½) = .4414213562, .3, .1585786438, .1.
    #[test]
    fn cosine_follows_the_published_formula() {
        let s = schedule(Shape::Cosine(4.0, None), 0.1, 0.0);
        for (t, expected) in
            [0.5, 0.441_421_356_237_309_5, 0.3, 0.158_578_643_762_690_5, 0.1, 0.1, 0.1]
                .iter()
                .enumerate()
        {
            assert!((rate(&s, t as f64) - expected).abs() < 1e-15, "{t}");
        }
    }

    /// CosineAnnealingWarmRestarts with T_0 = 2, T_mult = 2, η_min = 0: cycles of 2, 4, 8, each from η_0; half-way
    /// through a cycle η_0/2.
    #[test]
    fn restarts_begin_again_after_growing_periods() {
        let s = schedule(Shape::Cosine(2.0, Some(2.0)), 0.0, 0.0);
        for (t, expected) in
            [(0, 0.5), (1, 0.25), (2, 0.5), (4, 0.25), (6, 0.5), (10, 0.25), (14, 0.5)]
        {
            assert!((rate(&s, f64::from(t)) - expected).abs() < 1e-15, "{t}");
        }
        let even = schedule(Shape::Cosine(3.0, Some(1.0)), 0.0, 0.0);
        assert!((rate(&even, 301.0) - rate(&even, 1.0)).abs() < 1e-12);
    }

    #[test]
    fn exponential_and_inverse_power_are_what_their_names_say() {
        let s = schedule(Shape::Exponential(0.5, 100.0), 0.01, 0.0);
        assert!((rate(&s, 200.0) - 0.125).abs() < 1e-15);
        assert!((rate(&s, 1e6) - 0.01).abs() < 1e-15);
        let s = schedule(Shape::InversePower(0.5, 100.0), 0.0, 0.0);
        assert!((rate(&s, 300.0) - 0.25).abs() < 1e-15);
    }

    #[test]
    fn a_warm_up_rises_linearly_and_delays_the_rest() {
        let s = schedule(Shape::Exponential(0.5, 100.0), 0.0, 4.0);
        let rates: Vec<f64> = (0..5).map(|t| rate(&s, f64::from(t))).collect();
        assert_eq!(rates, [0.1, 0.2, 0.3, 0.4, 0.5]);
        assert!((rate(&s, 104.0) - 0.25).abs() < 1e-15);
    }
}
