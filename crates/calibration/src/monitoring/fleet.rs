//! Combines the evidence and the rates of several servers that decide by the same operating point.
//!
//! Each server bets on its own decisions. While the promise is kept, no bet is expected to grow, whatever the
//! others have observed. So the product of their wealth is an e-process too: the probability that it ever
//! reaches 1 / delta is at most delta for all servers together. The separate alarms, in contrast, have a
//! probability of delta for each server.

/// The evidence of one server against one limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReplicaEvidence {
    /// The natural logarithm of its e-process at present.
    pub ln_e: f64,
    /// The value of `ln_e` at which its alarm is raised.
    pub ln_e_alarm: f64,
}

/// The combined evidence of all servers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FleetEvidence {
    /// The natural logarithm of the product of the e-processes.
    pub ln_e: f64,
    /// The value of `ln_e` at which the alarm is raised: the highest of the servers' values.
    pub ln_e_alarm: f64,
    /// Whether the alarm is raised.
    pub alarm: bool,
}

impl FleetEvidence {
    /// Combines the evidence; `None` without any.
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

/// A rate that one server estimated by its audit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReplicaRate {
    /// Estimated number of its decisions in error.
    pub errors: f64,
    /// Estimated number of its decisions that could have been in error.
    pub trials: f64,
    /// The interval of its rate.
    pub interval: [f64; 2],
}

/// A rate of all servers together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FleetRate {
    /// The sum of errors divided by the sum of trials, in [0, 1].
    pub rate: f64,
    /// The lower end of its interval.
    pub lower: f64,
    /// The upper end of its interval.
    pub upper: f64,
}

impl FleetRate {
    /// Adds up errors and trials. The distance from each server's rate to the end of its interval is weighted
    /// by the server's part of the trials, and these distances are added as squares. `None` if no server
    /// knows the rate.
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
        // A server whose evidence was reset needs more evidence for an alarm.
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
