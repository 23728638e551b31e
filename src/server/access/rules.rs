//! The permission that each call needs. A call that is not listed is never answered.

use crate::identity::Scope;

/// The permission that a call needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum CallRule {
    /// None: the answer only shows that the server exists.
    Open,
    /// A key or a certificate, whatever its scopes.
    Known,
    /// One of these scopes. The deployment is checked when it is looked up, by `Registry::find`.
    AnyOf(&'static [Scope]),
    /// This scope in all deployments, because the call belongs to none.
    Everywhere(Scope),
}

const SEARCH: CallRule = CallRule::AnyOf(&[Scope::Search]);
const ENROL: CallRule = CallRule::AnyOf(&[Scope::Enrol]);
const LABEL: CallRule = CallRule::AnyOf(&[Scope::Label]);
const LABELS: CallRule = CallRule::AnyOf(&[Scope::Enrol, Scope::Label]);
const CALIBRATE: CallRule = CallRule::AnyOf(&[Scope::Calibrate]);
const ADMIN: CallRule = CallRule::AnyOf(&[Scope::Admin]);
/// An operation can be seen by those who may start one like it; see `Running::find`.
const OPERATION: CallRule = CallRule::AnyOf(&[Scope::Calibrate, Scope::Admin]);
/// Snapshots belong to no deployment until they are restored.
const SNAPSHOT: CallRule = CallRule::Everywhere(Scope::Admin);

/// Every call of every service, by its path.
const RULES: &[(&str, CallRule)] = &[
    ("/matchpoint.v1.RetrievalService/Search", SEARCH),
    ("/matchpoint.v1.RetrievalService/SearchStream", SEARCH),
    ("/matchpoint.v1.RetrievalService/Embed", SEARCH),
    ("/matchpoint.v1.RetrievalService/Verify", SEARCH),
    ("/matchpoint.v1.GalleryService/UpsertItem", ENROL),
    ("/matchpoint.v1.GalleryService/UpsertItemStream", ENROL),
    ("/matchpoint.v1.GalleryService/BatchUpsertItems", ENROL),
    ("/matchpoint.v1.GalleryService/RelabelItem", ENROL),
    ("/matchpoint.v1.GalleryService/DeleteItem", ENROL),
    ("/matchpoint.v1.GalleryService/DeleteItemStream", ENROL),
    ("/matchpoint.v1.GalleryService/BatchDeleteItems", ENROL),
    // These return embeddings and images, which a search does not.
    ("/matchpoint.v1.GalleryService/GetItem", ENROL),
    ("/matchpoint.v1.GalleryService/ListItems", ENROL),
    ("/matchpoint.v1.GalleryService/CheckItems", ENROL),
    // Annotators choose among labels.
    ("/matchpoint.v1.GalleryService/ListLabels", LABELS),
    ("/matchpoint.v1.MonitoringService/ListAuditQueue", LABEL),
    ("/matchpoint.v1.MonitoringService/GetDecision", LABEL),
    ("/matchpoint.v1.MonitoringService/AnnotateDecisions", LABEL),
    ("/matchpoint.v1.MonitoringService/GetDrift", LABEL),
    ("/matchpoint.v1.MonitoringService/GetShadow", LABEL),
    ("/matchpoint.v1.MonitoringService/ReplayCanaries", CALIBRATE),
    // It discards evidence.
    ("/matchpoint.v1.MonitoringService/ResetDrift", ADMIN),
    ("/matchpoint.v1.CalibrationService/Calibrate", CALIBRATE),
    (
        "/matchpoint.v1.OperatingPointService/ListOperatingPoints",
        CALIBRATE,
    ),
    (
        "/matchpoint.v1.OperatingPointService/GetOperatingPoint",
        CALIBRATE,
    ),
    (
        "/matchpoint.v1.OperatingPointService/CompareOperatingPoints",
        CALIBRATE,
    ),
    (
        "/matchpoint.v1.OperatingPointService/GetOperatingPointReport",
        CALIBRATE,
    ),
    (
        "/matchpoint.v1.OperatingPointService/ActivateOperatingPoint",
        CALIBRATE,
    ),
    (
        "/matchpoint.v1.OperatingPointService/RollBackOperatingPoint",
        CALIBRATE,
    ),
    ("/google.longrunning.Operations/ListOperations", OPERATION),
    ("/google.longrunning.Operations/GetOperation", OPERATION),
    ("/google.longrunning.Operations/WaitOperation", OPERATION),
    ("/google.longrunning.Operations/CancelOperation", OPERATION),
    ("/google.longrunning.Operations/DeleteOperation", OPERATION),
    ("/matchpoint.v1.SnapshotService/CreateSnapshot", ADMIN),
    ("/matchpoint.v1.SnapshotService/ListSnapshots", SNAPSHOT),
    ("/matchpoint.v1.SnapshotService/ReadSnapshot", SNAPSHOT),
    ("/matchpoint.v1.SnapshotService/WriteSnapshot", SNAPSHOT),
    ("/matchpoint.v1.SnapshotService/DeleteSnapshot", SNAPSHOT),
    ("/matchpoint.v1.SnapshotService/RestoreSnapshot", SNAPSHOT),
    ("/matchpoint.v1.ServerService/ReloadDeployment", ADMIN),
    ("/matchpoint.v1.ServerService/ReloadShadow", ADMIN),
    // Only lists the deployments that the caller may use.
    (
        "/matchpoint.v1.ServerService/GetServerInfo",
        CallRule::Known,
    ),
    // A load balancer has no key, and only learns whether the server is healthy.
    ("/grpc.health.v1.Health/Check", CallRule::Open),
    ("/grpc.health.v1.Health/List", CallRule::Open),
    ("/grpc.health.v1.Health/Watch", CallRule::Open),
    // The protocol is public, but answering costs work.
    (
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        CallRule::Known,
    ),
    (
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        CallRule::Known,
    ),
];

/// The rule of a call, and the name of its method; `None` if there is no such call.
pub(in crate::server) fn rule(path: &str) -> Option<(&'static str, CallRule)> {
    let (path, rule) = RULES.iter().find(|(of, _)| *of == path)?;
    let (_, method) = path.rsplit_once('/')?;
    Some((method, *rule))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn every_call_of_the_protocol_has_one_rule_and_is_in_the_manual() {
        let sets = [
            matchpoint_client::proto::DESCRIPTORS,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let mut calls = BTreeSet::new();
        for set in sets {
            for file in FileDescriptorSet::decode(set).unwrap().file {
                for service in &file.service {
                    for method in &service.method {
                        let (service, method) = (service.name(), method.name());
                        calls.insert(format!("/{}.{service}/{method}", file.package()));
                    }
                }
            }
        }
        let rules: Vec<String> = RULES.iter().map(|(path, _)| (*path).to_owned()).collect();
        let ruled: BTreeSet<String> = rules.iter().cloned().collect();
        assert_eq!(ruled.len(), rules.len(), "a call has two rules");
        assert_eq!(calls, ruled);
        assert_eq!(rule("/matchpoint.v1.RetrievalService/Find"), None);
        assert_eq!(rule(""), None);
    }
}
