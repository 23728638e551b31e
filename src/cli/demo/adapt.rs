//! `matchpoint demo --adapt`: whether a head that is fitted to some labels of the sample is better on its others.

use std::ffi::OsStr;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::Story;
use crate::cli::exit::Exit;

/// What the labels of strangers support that the head was not fitted to.
const SUPPORTED: [&str; 2] = ["0.2", "0.9"];

/// What the story came to.
#[derive(Serialize)]
pub(super) struct AdaptStory {
    /// What `adapt` printed.
    adapted: Value,
    /// What `build` printed behind the head; `None` if the head was refused.
    built: Option<Value>,
    /// What `calibrate` printed before the head and behind it, at the same target; `None` if the head was refused.
    calibrated: Option<[Value; 2]>,
}

impl Story<'_> {
    /// Fits, and if the head is better builds and calibrates behind it.
    pub(super) fn adapt(&self, model: &Path) -> anyhow::Result<AdaptStory> {
        let folder = &self.demo.deployment;
        let (to, page) = (folder.join("adapted-model"), folder.join("adapted.html"));
        let list = self.examples.join("labels.csv");
        self.say("2. Adapt. A head is a linear map behind the model. Half of the labels fit it, a quarter judges it, a quarter is left:");
        let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![
            &"adapt",
            &"--images",
            &list,
            &"--model",
            &model,
            &"--out",
            &to,
            &"--report",
            &page,
        ];
        arguments.extend(self.precision());
        let (exit, adapted) = self.command_ending(&arguments, &[Exit::Done, Exit::Underpowered])?;
        let page = page.display();
        if exit == Exit::Underpowered {
            self.say(&format!(
                "   Refused: on so few labels a head that is no better, or only by luck, is not taken. {page} shows what it did."
            ));
            return Ok(AdaptStory {
                adapted,
                built: None,
                calibrated: None,
            });
        }
        self.say(&format!("   {page} draws it."));
        self.say("3. Enrol behind the head. The stored embeddings are mapped; no photograph is embedded again.");
        let behind = folder.join("behind");
        let built = self.command(
            &[
                &"build",
                &behind,
                &"--embeddings-of",
                folder,
                &"--model",
                &to,
            ],
            Exit::Done,
        )?;
        self.say("4. Calibrate before the head and behind it. What it was fitted to is known by its bytes, and can choose no threshold behind it, so that fewer strangers are left there; they support one false accept in five searches:");
        let before = self.calibrated(folder, false)?;
        let calibrated = Some([before, self.calibrated(&behind, true)?]);
        self.say("   These are not the same queries. What the same ones promise before and behind stands under 2.");
        Ok(AdaptStory {
            adapted,
            built: Some(built),
            calibrated,
        })
    }

    /// Certified or, on the labels that are left, refused.
    fn calibrated(&self, folder: &Path, without_fitted: bool) -> anyhow::Result<Value> {
        let queries = self.examples.join("calibrate.csv");
        let [far, confidence] = SUPPORTED;
        let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![
            &"calibrate",
            &folder,
            &"--queries",
            &queries,
            &"--target-far",
            &far,
            &"--confidence",
            &confidence,
        ];
        if without_fitted {
            arguments.push(&"--without-fitted");
        }
        let (_, printed) = self.command_ending(&arguments, &[Exit::Done, Exit::Underpowered])?;
        Ok(printed)
    }
}
