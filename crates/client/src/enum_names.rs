//! The names of enum values without the prefix of their enum, as in text and JSON.

use serde::Serializer;

use super::proto::{
    AnnotationKind, CalibrationStage, Decision, LabelAgreement, LabelLikeness, UndecidedReason,
    Verdict,
};

/// Gives an enum `name()`, and a function that serialises a number as the name.
macro_rules! named {
    ($($enum:ident $function:ident $prefix:literal $meaning:literal;)*) => { $(
        impl $enum {
            #[doc = $meaning]
            #[must_use]
            pub fn name(self) -> &'static str {
                let name = self.as_str_name();
                name.strip_prefix($prefix).unwrap_or(name)
            }
        }

        pub(crate) fn $function<S: Serializer>(number: &i32, to: S) -> Result<S::Ok, S::Error> {
            match $enum::try_from(*number) {
                Ok($enum::Unspecified) | Err(_) => to.serialize_none(),
                Ok(known) => to.serialize_some(known.name()),
            }
        }
    )* };
}

named! {
    AnnotationKind annotation_kind "ANNOTATION_KIND_" "`AUDIT` or `FEEDBACK`.";
    CalibrationStage calibration_stage "CALIBRATION_STAGE_" "`SEARCHING`, `CHOOSING` or `DONE`.";
    Decision decision "DECISION_" "`ACCEPT`, `REJECT` or `UNDECIDED`.";
    LabelAgreement label_agreement "LABEL_AGREEMENT_" "`SAME`, `OTHER`, `MISSING` or `NOTHING`.";
    LabelLikeness label_likeness "LABEL_LIKENESS_" "`SPELLING` or `NEAR_MISS`.";
    UndecidedReason undecided_reason "UNDECIDED_REASON_" "Such as `OPERATING_POINT_MISSING`.";
    Verdict verdict "VERDICT_" "`KEPT`, `NOTE`, `UNKNOWN`, `WARNING` or `BROKEN`.";
}
