//! Annotations sent to the servers that made the decisions, and what became of each.

use serde::Serialize;

use crate::cli::exit::Exit;
use crate::cli::monitor::replicas::Replicas;
use crate::cli::monitor::served_deployment::ServedDeploymentFlags;
use crate::cli::output::Output;
use matchpoint_client::proto::{Annotation, AnnotationKind, AnnotationOutcome};

/// The outcome of an import.
#[derive(Debug, Default, Serialize)]
struct Imported {
    added: usize,
    confirmed: usize,
    corrected: usize,
    repeated: usize,
    /// Rows without a truth.
    skipped: usize,
    refused: Vec<RefusedAnnotation>,
}

#[derive(Debug, Serialize)]
struct RefusedAnnotation {
    decision_id: String,
    reason: String,
}

pub(super) fn kind(feedback: bool) -> AnnotationKind {
    if feedback {
        AnnotationKind::Feedback
    } else {
        AnnotationKind::Audit
    }
}

pub(super) async fn report_all(
    at: &ServedDeploymentFlags,
    replicas: &Replicas,
    reports: &[Annotation],
    skipped: usize,
) -> anyhow::Result<Exit> {
    let mut imported = Imported {
        skipped,
        ..Imported::default()
    };
    let results = replicas.annotate(reports).await?;
    for (report, result) in reports.iter().zip(results) {
        match result {
            Ok(AnnotationOutcome::Added) => imported.added += 1,
            Ok(AnnotationOutcome::Confirmed) => imported.confirmed += 1,
            Ok(AnnotationOutcome::Corrected) => imported.corrected += 1,
            Ok(AnnotationOutcome::Repeated | AnnotationOutcome::Unspecified) => {
                imported.repeated += 1;
            }
            Err(reason) => imported.refused.push(RefusedAnnotation {
                decision_id: report.decision_id.clone(),
                reason,
            }),
        }
    }
    Output::new(at.json).result(&imported, imported_text)?;
    Ok(if imported.refused.is_empty() {
        Exit::Done
    } else {
        Exit::SomeFailed
    })
}

fn imported_text(imported: &Imported) -> String {
    let counts = [
        (imported.added, "added"),
        (imported.confirmed, "confirmed"),
        (imported.corrected, "corrected"),
        (imported.repeated, "said before"),
        (imported.skipped, "without a truth, skipped"),
        (imported.refused.len(), "refused"),
    ];
    let said: Vec<String> = counts
        .into_iter()
        .filter(|(count, _)| 0 < *count)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    let refused = imported
        .refused
        .iter()
        .map(|refused| format!("  {}: {}\n", refused.decision_id, refused.reason));
    let summary = if said.is_empty() {
        "nothing to report".to_owned()
    } else {
        said.join(", ")
    };
    format!("{summary}\n{}", refused.collect::<String>())
}
