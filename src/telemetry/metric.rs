//! The table of metrics: a row is a metric's kind, its unit if it has one, the constant that the other files
//! name it by, its name and its meaning.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Makes a constant of each row, and the function that describes all of them to the recorder.
macro_rules! table {
    ($($kind:ident$(($unit:ident))? $constant:ident = $name:literal: $help:literal;)*) => {
        $(pub(super) const $constant: &str = $name;)*

        /// The meaning of a metric that the recorder does not know.
        pub(super) fn help(name: &str) -> &'static str {
            match name {
                $($name => $help,)*
                _ => "",
            }
        }

        /// Tells the recorder the meaning of every metric.
        pub(super) fn describe() {
            $(table!(@$kind $constant, $(Unit::$unit,)? $help);)*
        }
    };
    (@counter $($row:tt)*) => { describe_counter!($($row)*) };
    (@gauge $($row:tt)*) => { describe_gauge!($($row)*) };
    (@histogram $($row:tt)*) => { describe_histogram!($($row)*) };
}

table! {
    gauge BUILD_INFO = "matchpoint_build_info":
        "Always 1; the labels say which build this is.";
    gauge MODEL_INFO = "matchpoint_model_info":
        "1; the labels name each deployment's model, its precision and the execution provider really in use. 0 for one that was replaced.";
    gauge READY = "matchpoint_ready":
        "1 while the server answers requests, 0 while it loads or drains.";
    counter REQUESTS = "matchpoint_requests_total":
        "Finished calls and stream items by method and gRPC code.";
    histogram(Seconds) REQUEST_SECONDS = "matchpoint_request_seconds":
        "Time from a request's arrival to its answer, by method.";
    histogram(Seconds) STAGE_SECONDS = "matchpoint_stage_seconds":
        "Time of one stage of a request: queue, decode (and resize), inference, search.";
    counter DECISIONS = "matchpoint_decisions_total":
        "Decisions by operating point and outcome. Their rate is the accept rate, not the FAR: that needs annotations. Blind to which accepts are right: it moves with the share of strangers, which changes no error rate.";
    counter UNRECORDED = "matchpoint_unrecorded_searches_total":
        "Searches that their callers left out of the journal and the metrics of decisions, as the console does with pictures that somebody tries. No rate in service covers them.";
    counter REVIEWS = "matchpoint_reviews_total":
        "Rejects whose score is in the operating point's review band, so that a person is to look at them. Part of the rejects of matchpoint_decisions_total.";
    histogram MATCH_SCORE = "matchpoint_match_score":
        "Cosine similarity of the best match of each search. Blind to which of them is right, and to a few look-alikes; a changed share of strangers moves it most.";
    gauge CONNECTIONS = "matchpoint_connections":
        "Connections of clients that are open.";
    counter CONNECTIONS_CLOSED = "matchpoint_connections_closed_total":
        "Connections that the server closed, by reason: refused (connections_max), not_accepted (the system had no room for it), handshake (it did not speak HTTP/2 in time), idle.";
    counter LIMIT_REFUSALS = "matchpoint_limit_refusals_total":
        "Calls that were refused or given up because a limit on what clients share was reached, by the setting that raises it.";
    gauge DEPLOYMENT_UNOPENED = "matchpoint_deployment_unopened":
        "1 for a deployment that could not be opened at the start, and is not served. No series for others.";
    gauge(Seconds) KEY_EXPIRES = "matchpoint_key_expires_timestamp_seconds":
        "When the last key of a name expires, in seconds since 1970. No series for names with a key that never does; NaN once a name has no key that does.";
    gauge QUEUE_LENGTH = "matchpoint_queue_length":
        "Requests that wait for a worker of the model, by its precision; sampled twice a second.";
    counter QUEUE_REJECTED = "matchpoint_queue_rejected_total":
        "Requests that were refused because the queue was full, or because they would have waited for too long.";
    counter DROPPED_JOBS = "matchpoint_dropped_jobs_total":
        "Requests that left the queue undone, by the model's name and precision, and reason: gone (their clients hung up), late (could no longer be done by their deadlines), displaced (their places went to clients that had fewer).";
    counter IMAGE_FAILURES = "matchpoint_image_failures_total":
        "Images that could not be used, by reason.";
    gauge GALLERY_ITEMS = "matchpoint_gallery_items":
        "Items in the gallery.";
    gauge GALLERY_LABELS = "matchpoint_gallery_labels":
        "Labels in the gallery.";
    gauge GALLERY_GENERATION = "matchpoint_gallery_generation":
        "Number of the gallery's state; grows with each change.";
    gauge STATE_INFO = "matchpoint_state_info":
        "1; the label `state` names what decides: items, model, index and operating point. Replicas of the same items, model, index and operating point have the same. One series for each deployment: with another state, the one before is gone.";
    gauge(Seconds) STORE_LAG = "matchpoint_store_lag_seconds":
        "How long ago a deployment was last known to have all that its store has: a second at most if all is well. Grows while the store is out of reach, too. No series without a store.";
    gauge STORE_WRITER = "matchpoint_store_writer":
        "1 if this server makes the changes of a deployment that is kept in a store, 0 if it follows. No series without a store.";
    counter GALLERY_CHANGES = "matchpoint_gallery_changes_total":
        "Items enrolled, replaced or removed.";
    gauge GALLERY_COVERAGE_RATIO = "matchpoint_gallery_coverage_ratio":
        "Share of the gallery that the calibration of the operating point has seen; NaN if not known.";
    gauge GALLERY_SIZE_RATIO = "matchpoint_gallery_size_ratio":
        "Items of the calibration with those added since, over the items that the operating point covers. Above 1 the promised FAR no longer covers the gallery. Blind to the kind of what was added.";
    gauge FAR_BOUND = "matchpoint_far_bound_ratio":
        "FAR that is not exceeded in today's gallery, at the confidence of the operating point: that of the calibration, in the smallest gallery that holds its items and those added since. NaN if not known. Blind to the kind of what was added.";
    gauge PROMISE_STANDS = "matchpoint_promise_stands":
        "1 while what the operating point promised at its calibration holds for today's gallery, 0 once it has ended; by rate: far, frr, review (the FRR without a review). No series for what it never promised. Blind to what searches are like, and to the true rates.";
    counter ENROLMENT_CHECKS = "matchpoint_enrolment_checks_total":
        "Enrolled items by outcome: apart, lookalike (accepted as an item of another label), unchecked (no valid operating point, or the workers were busy).";
    gauge LEFT_OUT_SEARCHES = "matchpoint_left_out_searches":
        "Searches of the gallery for its own items, one of each label of a sample, each with its label left out: in the latest round.";
    gauge LEFT_OUT_ACCEPTED = "matchpoint_left_out_accepted":
        "Those of them that were accepted, each of them wrongly.";
    gauge LEFT_OUT_RATE = "matchpoint_left_out_far_ratio":
        "Their share; bound is estimate, lower or upper (95 %, over groups of labels that are taken for each other). A FAR of labels like those that are enrolled. Blind to strangers of other kinds.";
    gauge LEFT_OUT_LIMIT = "matchpoint_left_out_limit_ratio":
        "What its lower end must not exceed: the operating point's target, or the upper end of the first round, whichever is higher. NaN if neither is known.";
    counter INDEX_CHECKED = "matchpoint_index_checked_neighbours_total":
        "Nearest items of a sample of searches, found by comparing with every item.";
    counter INDEX_MISSED = "matchpoint_index_missed_neighbours_total":
        "Those of them that the approximate index did not find: divide by the checked ones for its miss rate.";
    gauge INDEX_READY = "matchpoint_index_ready":
        "1 while Qdrant answers, and its answers were compared with the gallery's since the latest connection; 0 while searches may be UNAVAILABLE, or what has changed is not there. No series without Qdrant.";
    gauge INDEX_GENERATION = "matchpoint_index_generation":
        "Generation that Qdrant has at least; what is newer is compared one by one. No series without Qdrant.";
    counter INDEX_REFUSED = "matchpoint_index_refused_proposals_total":
        "Points that Qdrant proposed and that do not count, by reason: stale (the item is not here, or with another checksum: some are after each change), damaged (without the payload that it was written with).";
    counter INDEX_BESIDE = "matchpoint_index_exact_searches_total":
        "Searches that compared every item because what Qdrant proposed did not suffice. Their answers are right; each takes as long as a search without an index.";
    counter INDEX_REPAIRED = "matchpoint_index_repaired_points_total":
        "Points in Qdrant that differed from the gallery, and were written anew.";
    counter DAMAGED_ITEMS = "matchpoint_gallery_damaged_items_total":
        "Items found changed on the disk while they were served. From the first on, nothing is accepted until a restart.";
    gauge FOLDER_CHANGED = "matchpoint_folder_changed":
        "1 if others have changed items or active operating point in the folder of a read-only deployment since it was opened: reload it.";
    gauge(Bytes) INDEX_BYTES = "matchpoint_gallery_index_bytes":
        "Memory of the approximate index: codes and links. Vectors of the base segment stay on disk.";
    gauge OPERATING_POINT_ACTIVE = "matchpoint_operating_point_active":
        "1 for the active operating point, 0 for one that was active before.";
    gauge THRESHOLD = "matchpoint_threshold":
        "Cosine similarity from which the operating point accepts.";
    gauge TARGET_FAR = "matchpoint_target_far_ratio":
        "False accept rate that the operating point is made for.";
    gauge FAR_UPPER_BOUND = "matchpoint_far_upper_bound_ratio":
        "Upper confidence bound of the false accept rate at calibration.";
    gauge(Seconds) CALIBRATION_TIMESTAMP = "matchpoint_calibration_timestamp_seconds":
        "When the operating point was calibrated, since 1970-01-01 UTC.";
    counter RECORDED = "matchpoint_recorded_decisions_total":
        "All decisions ever written to the journal, counted on disk, so a restart does not reset them. If another folder takes a deployment's place, the count goes on. By operating point, source (live, comparison, canaries), decision, stratum of the audit, and whether a filter was used. Strata beside the threshold are the decisions that a small change of scores would reverse. Blind to who was searched for.";
    counter RECORDING_LOST = "matchpoint_recording_lost_total":
        "What was answered and not recorded, by reason: queue_full, not_written (the disk), image (the decision was recorded), crowded_out (sampled for the audit, and removed for want of room before anybody labelled it). Counted also while nothing can be written.";
    gauge JOURNAL_ROWS = "matchpoint_journal_decisions":
        "Decisions that the journal holds now.";
    gauge(Bytes) JOURNAL_BYTES = "matchpoint_journal_bytes":
        "Length of the journal's file, without its log of at most 16 MiB.";
    gauge AUDIT_SAMPLED = "matchpoint_audit_sampled_decisions":
        "Decisions of the operating point that were sampled for the audit, and are kept.";
    gauge AUDIT_ANNOTATED = "matchpoint_audit_annotated_decisions":
        "Those of them that have an annotation.";
    gauge AUDIT_SINCE_ANNOTATION = "matchpoint_audit_sampled_since_annotation_decisions":
        "Those of them that were made after the latest annotation was given: all of them while there is none.";
    gauge(Seconds) AUDIT_LATEST_ANNOTATION = "matchpoint_audit_latest_annotation_timestamp_seconds":
        "When the latest annotation of them was given, since 1970-01-01 UTC. Absent before the first.";
    gauge AUDIT_RATE = "matchpoint_audit_rate_ratio":
        "FAR (far), FRR (frr) or false discovery rate (fdr) in service, from annotations of sampled decisions, each weighted by the inverse of its probability of being sampled; bound is estimate, lower or upper (95 %). Absent until an annotation counts for it, NaN if none does any more. Blind to what annotators cannot see; assumes that whether a decision is annotated does not depend on its truth. Do not average over replicas: divide the sums of errors and trials.";
    gauge AUDIT_ERRORS = "matchpoint_audit_weighted_errors":
        "Numerator of the audited rate: decisions in error that the annotations stand for. Sums over replicas.";
    gauge AUDIT_TRIALS = "matchpoint_audit_weighted_trials":
        "Denominator of the audited rate: decisions that could have been in error that the annotations stand for. Sums over replicas.";
    gauge RATE_LIMIT = "matchpoint_rate_limit_ratio":
        "The limit that the rate is compared with: the operating point's target (basis target), or the upper end of what its calibration measured (basis measured).";
    gauge EVIDENCE = "matchpoint_evidence_log_ratio":
        "Natural logarithm of the e-process against `the rate is at most its limit`, after the last sampled decision. May be looked at at any time; a low value is no evidence that the promise is kept.";
    gauge EVIDENCE_ALARM = "matchpoint_evidence_alarm_log_ratio":
        "What the evidence must reach for an alarm: ln(1 / alarm_delta).";
    gauge RATE_ALARM = "matchpoint_rate_alarm":
        "1 from the moment when the evidence reached its limit, for as long as the operating point is active; false with a probability of at most alarm_delta, ever.";
    gauge(Seconds) RATE_ALARM_SINCE = "matchpoint_rate_alarm_since_timestamp_seconds":
        "When the sampled decision was made at which the evidence reached its limit, since 1970-01-01 UTC. NaN without an alarm.";
    gauge RATE_CUSUM = "matchpoint_rate_cusum_ratio":
        "Bernoulli CUSUM of the sampled decisions by its limit: from 1 on a rise of the rate is suspected, sooner than evidence shows it. No guarantee of ever being right: a false suspicion comes about once in 1,000 sampled decisions, or less often. Not for paging.";
    gauge CANARY_TRIALS = "matchpoint_canary_trials":
        "Canaries of the latest round: enrolled ones for frr, others for far.";
    gauge CANARY_ERRORS = "matchpoint_canary_errors":
        "Those of them in error: accepted strangers for far, rejected or wrongly matched ones for frr.";
    gauge CANARY_RATE = "matchpoint_canary_rate_ratio":
        "Ends of the 95 % interval of the share of canaries in error. Absent before there are canaries of the kind. Knows nothing of new traffic, and genuine canaries are easier than what callers send.";
    gauge CANARY_ALARM = "matchpoint_canary_alarm":
        "1 if the latest round is evidence that canaries fail more often than the rate's limit.";
    gauge CANARY_CHANGED = "matchpoint_canary_changed":
        "Canaries whose outcome differs from that of the first round under the operating point.";
    gauge CANARY_FAILED = "matchpoint_canary_failed":
        "Canaries that could not be searched for.";
    gauge REVIEW_SHARE = "matchpoint_review_ratio":
        "Share of searches that went to a person, of an operating point with a review band; bound is estimate, lower or upper (95 %), predicted_lower or predicted_upper (what its calibration foresees, whatever part of searches is mated). None under a filter, and no canaries.";
    gauge REVIEW_STRAYS = "matchpoint_review_strays":
        "1 while the evidence says that this share is above what the calibration foresees, -1 if below, else 0. No error rate.";
    gauge TRAFFIC_COMPARED = "matchpoint_traffic_compared_searches":
        "Searches compared with those of the calibration, since the operating point became active or its evidence was reset. Without those under a filter, and without canaries.";
    gauge TRAFFIC_EVIDENCE = "matchpoint_traffic_evidence_log_ratio":
        "Natural logarithm of the e-process against `searches look like those of the calibration`, whatever part of them is mated. May be looked at at any time; a low value is no evidence that they do. Blind to strangers that look like enrolled things, and to all that does not show in a picture.";
    gauge TRAFFIC_EVIDENCE_ALARM = "matchpoint_traffic_evidence_alarm_log_ratio":
        "What that evidence must reach for an alarm: ln(2 / alarm_delta), and more after each reset. The other half of alarm_delta is for what few labels at calibration leave open.";
    gauge TRAFFIC_ALARM = "matchpoint_traffic_alarm":
        "1 from the moment when that evidence reached its limit, for as long as the operating point is active: what the promise assumes of searches no longer holds. False with a probability of at most alarm_delta, ever. No error rate: what became of FAR and FRR only annotations say.";
    gauge TRAFFIC_SHARE = "matchpoint_traffic_share_ratio":
        "By feature, the share of searches that has most of the evidence: among the latest 500 (bound recent), at calibration (calibrated), and what it is at most by the number of its labels while traffic is like the calibration (limit). Which share it is, `matchpoint drift report` says.";
    gauge PREDICTED_FAR = "matchpoint_predicted_far_ratio":
        "FAR predicted for a gallery of today's size from what calibration measured; bound is estimate or upper. Blind to all but the number of items: assumes strangers and pictures as at calibration, and new items as similar to strangers as the old ones. Absent if no FAR was measured; absent or NaN if it is not known how many items were added.";
    histogram FEATURE_NORM = "matchpoint_feature_norm":
        "Length of the feature of each image searched for, before it is made 1. Falls with blur, dark and empty pictures for many models. Blind to truth, to strangers, and to models whose features all have one length.";
    histogram MATCH_MARGIN = "matchpoint_match_margin":
        "How much nearer the best item of a search is than the best of another label. Blind to what is not enrolled: a look-alike can be far nearer than the next label. Moves with the share of strangers and with the gallery's size.";
    gauge STRATUM_EDGE = "matchpoint_audit_stratum_edge":
        "Ends of each stratum of the audit as score less threshold; bound is lower or upper. 0 is the threshold. Says which strata lie beside it.";
    gauge ACCEPT_FEEDBACK = "matchpoint_accept_feedback":
        "Accepts on which somebody gave feedback without being asked, right or wrong. The share of right ones is a precision of that feedback, and says nothing of FAR: nobody sees rejects.";
    gauge SHADOW_INFO = "matchpoint_shadow_info":
        "1; the labels name the shadow deployment that a deployment is compared with. 0 for an earlier one.";
    counter SHADOW_DECISIONS = "matchpoint_shadow_decisions_total":
        "Queries that a shadow deployment was also asked: what was answered (live), what it would have answered (shadow), and whether it found the same label (label_agreement). Says that the two differ, not which of them is right: that needs annotations.";
    counter SHADOW_SKIPPED = "matchpoint_shadow_skipped_total":
        "Queries sampled for a shadow deployment and not compared, by reason: embedding (it came as a vector), busy (requests waited), behind (the shadow deployment was not done), failed.";
}
