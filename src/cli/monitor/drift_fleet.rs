//! `matchpoint drift report --servers`: several servers that decide by one operating point.

use anyhow::Context;
use serde::Serialize;

use super::served_deployment::ServedDeploymentFlags;
use crate::cli::exit::{Exit, fail};
use crate::cli::output::percent;
use crate::cli::served_info::served_info;
use crate::telemetry::escaped;
use matchpoint_calibration::monitoring::fleet::{
    FleetEvidence, FleetRate, ReplicaEvidence, ReplicaRate,
};
use matchpoint_client::proto::{AuditedRate, Evidence, GetDriftResponse};

/// What several servers report together.
#[derive(Serialize)]
pub(crate) struct FleetReport {
    operating_point_id: String,
    far: FleetFinding,
    frr: FleetFinding,
    replicas: Vec<Replica>,
}

/// One of the two rates.
#[derive(Serialize)]
struct FleetFinding {
    rate: Option<f64>,
    lower: Option<f64>,
    upper: Option<f64>,
    /// What every server holds its rate against; null if their limits differ.
    limit: Option<f64>,
    /// The limits of all servers, each once.
    limits: Vec<f64>,
    log_e_value: Option<f64>,
    log_e_value_alarm: Option<f64>,
    /// Whether there is an alarm: of all of them together, or of one of them.
    alarm: bool,
}

/// One server.
#[derive(Serialize)]
struct Replica {
    server: String,
    /// The name of its journal; empty if decisions are not recorded.
    journal: String,
    report: GetDriftResponse,
}

impl FleetReport {
    /// Asks all servers.
    pub(crate) async fn of(servers: &[String], at: &ServedDeploymentFlags) -> anyhow::Result<Self> {
        let mut replicas = Vec::with_capacity(servers.len());
        for server in servers {
            let client = at.server.of_another(server).connect().await?;
            let served = served_info(&client, &at.deployment).await;
            let journal = served.with_context(|| format!("at {server}"))?.journal;
            let report = client.drift(&at.deployment, "").await?;
            replicas.push(Replica {
                server: server.clone(),
                journal,
                report,
            });
        }
        check_apart(&replicas)?;
        let mut ids = replicas.iter().map(|one| &one.report.operating_point_id);
        let first = ids.next().cloned().unwrap_or_default();
        if let Some(other) = ids.find(|id| **id != first) {
            let named = |id: &str| match id {
                "" => "none".to_owned(),
                id => id.to_owned(),
            };
            let message = format!(
                "the servers decide by different operating points ({}, {}), so nothing can be said of them together; activate one on all of them",
                named(&first),
                named(other)
            );
            return Err(fail(Exit::Mismatch, message));
        }
        let reports = || replicas.iter().map(|one| &one.report);
        Ok(Self {
            operating_point_id: first,
            far: FleetFinding::of(reports().map(|found| (found.far, found.far_evidence))),
            frr: FleetFinding::of(reports().map(|found| (found.frr, found.frr_evidence))),
            replicas,
        })
    }

    /// As text.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "{} servers, operating point {}\n\n",
            self.replicas.len(),
            if self.operating_point_id.is_empty() {
                "none"
            } else {
                &self.operating_point_id
            }
        );
        for (name, finding) in [("FAR", &self.far), ("FRR", &self.frr)] {
            text.push_str(&format!("  {name:<6} {}\n", finding.text()));
        }
        text.push('\n');
        for Replica { server, report, .. } in &self.replicas {
            let evidence = |found: Option<Evidence>| {
                found.map_or_else(
                    || "not known".to_owned(),
                    |found| {
                        let alarm = if found.alarm { " (ALARM)" } else { "" };
                        format!("{:.2}{alarm}", found.log_e_value)
                    },
                )
            };
            text.push_str(&format!(
                "  {}: {} of {} labelled, ln E of the FAR {}, of the FRR {}\n",
                escaped(server),
                report.annotated,
                report.sampled,
                evidence(report.far_evidence),
                evidence(report.frr_evidence)
            ));
        }
        text
    }
}

/// Refuses servers that record in one journal: that is one server under two names, whose evidence would count twice.
fn check_apart(replicas: &[Replica]) -> anyhow::Result<()> {
    for (number, one) in replicas.iter().enumerate() {
        let same = |other: &&Replica| !one.journal.is_empty() && other.journal == one.journal;
        if let Some(other) = replicas.iter().take(number).find(same) {
            let message = format!(
                "{} and {} record in one journal ({}), so they are one server, whose evidence would count twice; name each server once",
                other.server, one.server, one.journal
            );
            return Err(fail(Exit::Usage, message));
        }
    }
    Ok(())
}

impl FleetFinding {
    fn of(found: impl Iterator<Item = (Option<AuditedRate>, Option<Evidence>)>) -> Self {
        let (rates, evidence): (Vec<_>, Vec<_>) = found.unzip();
        let rates: Vec<ReplicaRate> = rates
            .into_iter()
            .flatten()
            .map(|rate| ReplicaRate {
                errors: rate.weighted_errors,
                trials: rate.weighted_trials,
                interval: [rate.lower, rate.upper],
            })
            .collect();
        let evidence: Vec<Evidence> = evidence.into_iter().flatten().collect();
        let mut limits: Vec<f64> = evidence.iter().map(|one| one.limit).collect();
        limits.sort_by(f64::total_cmp);
        limits.dedup();
        let bets: Vec<ReplicaEvidence> = evidence
            .iter()
            .map(|one| ReplicaEvidence {
                ln_e: one.log_e_value,
                ln_e_alarm: one.log_e_value_alarm,
            })
            .collect();
        let (rate, together) = (FleetRate::of(&rates), FleetEvidence::of(&bets));
        Self {
            rate: rate.map(|rate| rate.rate),
            lower: rate.map(|rate| rate.lower),
            upper: rate.map(|rate| rate.upper),
            limit: limits.first().copied().filter(|_| limits.len() == 1),
            limits,
            log_e_value: together.map(|found| found.ln_e),
            log_e_value_alarm: together.map(|found| found.ln_e_alarm),
            // The alarm of one stands also if the others have gathered evidence of the opposite since.
            alarm: together.is_some_and(|found| found.alarm)
                || evidence.iter().any(|one| one.alarm),
        }
    }

    fn text(&self) -> String {
        let rate = match (self.rate, self.lower, self.upper) {
            (Some(rate), Some(lower), Some(upper)) => {
                format!(
                    "{} [{} .. {}]",
                    percent(rate),
                    percent(lower),
                    percent(upper)
                )
            }
            _ => "not known".to_owned(),
        };
        let (Some(ln_e), Some(alarm)) = (self.log_e_value, self.log_e_value_alarm) else {
            return rate;
        };
        let limits: Vec<String> = self.limits.iter().map(|limit| percent(*limit)).collect();
        let above = match limits.as_slice() {
            [limit] => limit.clone(),
            all => format!("each server's own limit ({})", all.join(", ")),
        };
        format!(
            "{rate}; evidence above {above}, multiplied: ln E = {ln_e:.2}, an alarm at {alarm:.2}{}",
            if self.alarm { ": ALARM" } else { "" }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alarm_of_one_server_stands_whatever_the_others_have_gathered() {
        let evidence = |log_e_value, alarm| Evidence {
            log_e_value,
            log_e_value_alarm: 3.0,
            alarm,
            ..Evidence::default()
        };
        let alarm = |all: [Evidence; 2]| {
            let found = FleetFinding::of(all.into_iter().map(|one| (None, Some(one))));
            (found.alarm, found.text().ends_with(": ALARM"))
        };
        assert_eq!(
            alarm([evidence(1.0, false), evidence(0.0, false)]),
            (false, false)
        );
        assert_eq!(
            alarm([evidence(2.0, false), evidence(1.5, false)]),
            (true, true)
        );
        assert_eq!(
            alarm([evidence(-4.0, true), evidence(0.0, false)]),
            (true, true)
        );
    }

    #[test]
    fn limits_that_differ_are_all_named() {
        let found = |limits: [f64; 2]| {
            let evidence = limits.map(|limit| Evidence {
                limit,
                ..Evidence::default()
            });
            FleetFinding::of(evidence.into_iter().map(|one| (None, Some(one))))
        };
        let same = found([0.01, 0.01]);
        assert_eq!(same.limit, Some(0.01));
        assert!(same.text().contains("evidence above 1 %, multiplied"));
        let other = found([0.01, 0.002]);
        assert_eq!(other.limit, None);
        let said = "evidence above each server's own limit (0.2 %, 1 %), multiplied";
        assert!(other.text().contains(said), "{}", other.text());
    }

    #[test]
    fn a_server_under_two_names_is_refused() {
        let replica = |server: &str, journal: &str| Replica {
            server: server.to_owned(),
            journal: journal.to_owned(),
            report: GetDriftResponse::default(),
        };
        let check = |journals: [&str; 3]| {
            let servers = ["http://a:1", "http://b:1", "http://c:1"];
            let named = servers.iter().zip(journals);
            let replicas: Vec<_> = named.map(|(server, name)| replica(server, name)).collect();
            check_apart(&replicas).map_err(|refused| format!("{refused:#}"))
        };
        check(["0a1b", "0a1c", ""]).unwrap();
        // Without a journal there is no evidence to count twice.
        check(["", "", "0a1b"]).unwrap();
        let refused = check(["0a1b", "0a1c", "0a1b"]).unwrap_err();
        assert!(refused.contains("http://a:1 and http://c:1"), "{refused}");
    }
}
