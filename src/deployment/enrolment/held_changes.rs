//! Holds changes back while another deployment takes the place of this one.

use super::writer::ChangeWriter;
use crate::deployment::DeploymentError;
use crate::deployment::open::Deployment;
use crate::journal::entry::StateId;

/// As long as this exists, changes of items and of the active operating point are refused.
#[derive(Debug)]
pub struct HeldChanges<'a>(Option<&'a ChangeWriter>);

impl HeldChanges<'_> {
    /// Never takes changes again: whatever would change from now on belongs to the deployment that is served.
    pub fn for_good(mut self) {
        self.0 = None;
    }
}

impl Drop for HeldChanges<'_> {
    fn drop(&mut self) {
        if let Some(writer) = self.0 {
            writer.release();
        }
    }
}

impl Deployment {
    /// Refuses changes from now on, and returns when all those before are done. Blocks.
    ///
    /// # Errors
    /// Returns an error if they are held already, or if the writer has ended.
    pub fn hold_changes(&self) -> Result<HeldChanges<'_>, DeploymentError> {
        let writer = self.writer.as_ref();
        writer.map_or(Ok(()), ChangeWriter::hold)?;
        let held = HeldChanges(writer);
        // An activation that began before has this lock, and ends first.
        drop(self.lock_activations());
        Ok(held)
    }

    /// Refuses a change while they are held.
    ///
    /// # Errors
    /// Returns an error if another deployment takes the place of this one.
    pub(in crate::deployment) fn check_not_held(&self) -> Result<(), DeploymentError> {
        if self.writer.as_ref().is_some_and(ChangeWriter::is_held) {
            return Err(DeploymentError::Switching);
        }
        Ok(())
    }

    /// Checks that its state is the expected one, if one is expected.
    ///
    /// # Errors
    /// Returns an error if the state is another one.
    pub fn check_state(&self, expected: Option<StateId>) -> Result<(), DeploymentError> {
        self.state_in_use(expected).map(drop)
    }
}
