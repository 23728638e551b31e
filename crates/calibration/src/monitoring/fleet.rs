//! Several servers with one operating point: their evidence and rates together.
//!
//! Each bets on decisions of its own, and while the promise is kept no bet is expected to grow, whatever
//! the others have seen. So the product of their wealth is an e-process too: it reaches 1 / delta, ever,
//! with a probability of at most delta for all of them, where the alarms of each alone have delta each.

/// The evidence of one server against one limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReplicaEvidence {
    /// The natural logarithm of its e-process now.
    pub ln_e: f64,
    /// The limit for an alarm.
    pub ln_e_alarm: f64,
}

/// Evidence of all of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FleetEvidence {
    /// The logarithm of the product.
    pub ln_e: f64,
    /// The limit for an alarm: the highest of them.
    pub ln_e_alarm: f64,
    /// Whether it is one.
    pub alarm: bool,
}

impl FleetEvidence {
    /// Multiplies them; `None` without any.
    #[must_use]
    pub fn of(replicas: &[ReplicaEvidence]) -> Option<Self> {
        let alarms = replicas.iter().map(|replica| replica.ln_e_alarm);
        let ln_e_alarm = alarms.reduce(f64::max)?;
        let ln_e: f64 = replicas.iter().map(|replica| replica.ln_e).sum();
        Some(Self {
            ln_e,
            ln_e_alarm,
            alarm: ln_e_alarm <= ln_e,
        })
    }
}

/// A rate that one server has audited.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReplicaRate {
    /// Decisions in error that its labels stand for.
    pub errors: f64,
    /// Decisions that could have been.
    pub trials: f64,
    /// The interval of its rate.
    pub interval: [f64; 2],
}

/// A rate of all of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FleetRate {
    /// Sum of errors by sum of trials, in [0, 1].
    pub rate: f64,
    /// The low end of its interval.
    pub lower: f64,
    /// The high end.
    pub upper: f64,
}

impl FleetRate {
    /// Adds up errors and trials; the distances of each server's rate from the ends of its interval are
    /// added as squares, by its part of the trials. `None` if nobody knows the rate.
    #[must_use]
    pub fn of(replicas: &[ReplicaRate]) -> Option<Self> {
        let trials: f64 = replicas.iter().map(|replica| replica.trials).sum();
        let errors: f64 = replicas.iter().map(|replica| replica.errors).sum();
        if trials <= 0.0 {
            return None;
        }
        let rate = (errors / trials).clamp(0.0, 1.0);
        let (mut below, mut above) = (0.0, 0.0);
        for replica in replicas.iter().filter(|replica| 0.0 < replica.trials) {
            let (own, part) = (replica.errors / replica.trials, replica.trials / trials);
            let [lower, upper] = replica.interval;
            below += (part * (own - lower)).powi(2);
            above += (part * (upper - own)).powi(2);
        }
        Some(Self {
            rate,
            lower: (rate - below.sqrt()).max(0.0),
            upper: (rate + above.sqrt()).min(1.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_that_is_too_little_for_each_is_enough_for_all() {
        let one = |ln_e| ReplicaEvidence {
            ln_e,
            ln_e_alarm: 3.0,
        };
        let found = FleetEvidence::of(&[one(1.5), one(2.0), one(-0.25)]).unwrap();
        assert!(found.alarm && (found.ln_e - 3.25).abs() < 1e-12);
        // One that was reset takes more.
        let strict = ReplicaEvidence {
            ln_e: 0.0,
            ln_e_alarm: 3.7,
        };
        assert!(
            !FleetEvidence::of(&[one(1.5), one(2.0), strict])
                .unwrap()
                .alarm
        );
        assert_eq!(FleetEvidence::of(&[]), None);
    }

    #[test]
    fn a_rate_of_all_weighs_each_by_its_trials() {
        let few = ReplicaRate {
            errors: 10.0,
            trials: 100.0,
            interval: [0.05, 0.2],
        };
        let many = ReplicaRate {
            errors: 9.0,
            trials: 900.0,
            interval: [0.0, 0.03],
        };
        let found = FleetRate::of(&[few, many]).unwrap();
        assert!((found.rate - 0.019).abs() < 1e-12);
        let above = ((0.1_f64 * 0.1).powi(2) + (0.9_f64 * 0.02).powi(2)).sqrt();
        assert!((found.upper - found.rate - above).abs() < 1e-12);
        assert_eq!(FleetRate::of(&[]), None);
    }
}
