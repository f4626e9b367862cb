//! How an image was built: the steps that its config lists, beside the layers that they made.

use serde::Serialize;

use crate::error::{Conflict, Error, Result};
use crate::limits;
use crate::oci::config::Step;
use crate::oci::{ImageConfig, Platform};
use crate::store::Store;
use crate::store::edges::{Child, ChildPlatform};
use crate::store::images::manifest::describe;

#[derive(Debug, Clone, Serialize)]
pub struct History {
    pub platform: Option<ChildPlatform>,
    pub manifest: Child,
    pub config: Child,
    /// A time as the image's author wrote it.
    pub created: Option<String>,
    pub author: Option<String>,
    /// The oldest first. Every layer of the manifest is in one of them, in its order.
    pub steps: Vec<BuildStep>,
    /// Where config and manifest do not agree, in words.
    pub findings: Vec<String>,
}

/// A step of the build, and the layer that it made.
#[derive(Debug, Clone, Default, Serialize)]
pub struct BuildStep {
    pub created: Option<String>,
    pub created_by: Option<String>,
    pub author: Option<String>,
    pub comment: Option<String>,
    /// It changed no file, says the config.
    pub empty_layer: bool,
    pub layer: Option<Child>,
    /// The digest of the layer's tar.
    pub diff_id: Option<String>,
}

impl Store {
    /// The history of the manifest for `platform`, or the server's own.
    ///
    /// # Errors
    /// As [`Store::find_manifest`]; also `Conflict` (incomplete) when the config is not here, and `Unprocessable` when
    /// it is none of an image.
    pub async fn find_history(
        &self,
        namespace: &str,
        id: &str,
        platform: Option<&Platform>,
    ) -> Result<History> {
        let image = self.find_image(namespace, id).await?;
        let tree = self.read_tree(&image.namespace, &image.target).await?;
        let (node, manifest) = tree.find_manifest(platform)?;
        let found = describe(&tree, node, manifest);
        let digest = &manifest.config.digest;
        let bytes = match self.read_blob(namespace, digest, limits::MANIFEST_BYTES).await {
            Err(Error::NotFound { .. } | Error::Corrupt { .. }) => {
                let missing = vec![digest.to_string()];
                return Err(Error::Conflict(Conflict::Incomplete { count: 1, missing }));
            }
            read => read?,
        };
        let config = ImageConfig::parse(&bytes)?;
        let findings = findings_of(&config, found.layers.len());
        let diff_ids = config.diff_ids.iter().map(ToString::to_string).collect();
        Ok(History {
            platform: found.platform,
            manifest: found.manifest,
            config: found.config,
            created: config.created,
            author: config.author,
            steps: join(config.history, found.layers, diff_ids),
            findings,
        })
    }
}

/// What of a config does not fit a manifest of so many layers.
fn findings_of(config: &ImageConfig, layers: usize) -> Vec<String> {
    let mut findings = Vec::new();
    let diff_ids = config.diff_ids.len();
    if diff_ids != layers {
        findings.push(format!("the config lists {diff_ids} diff IDs, the manifest {layers} layers"));
    }
    let steps = config.history.iter().filter(|step| !step.empty_layer).count();
    if !config.history.is_empty() && steps != layers {
        findings.push(format!("the history has {steps} steps with a layer, the manifest {layers} layers"));
    }
    findings
}

/// Gives each step that made a layer the next one. Layers that no step is left for stand by themselves, at the end.
fn join(history: Vec<Step>, layers: Vec<Child>, diff_ids: Vec<String>) -> Vec<BuildStep> {
    let mut layers = layers.into_iter();
    let mut diff_ids = diff_ids.into_iter();
    let mut steps: Vec<BuildStep> = Vec::new();
    for Step { created, created_by, author, comment, empty_layer } in history {
        let (layer, diff_id) = match empty_layer {
            true => (None, None),
            false => (layers.next(), diff_ids.next()),
        };
        steps.push(BuildStep { created, created_by, author, comment, empty_layer, layer, diff_id });
    }
    steps.extend(layers.map(|layer| {
        let diff_id = diff_ids.next();
        BuildStep { layer: Some(layer), diff_id, ..BuildStep::default() }
    }));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Algorithm, Descriptor, Digest};
    use crate::store::edges::child_of;

    fn layers(count: usize) -> Vec<Child> {
        let layer = |at: usize| Descriptor::new("a/b", Digest::of(Algorithm::Sha256, &[at as u8]), 1);
        (0..count).map(|at| child_of("layer", &layer(at), true)).collect()
    }

    fn step(name: &str, empty_layer: bool) -> Step {
        Step { created_by: Some(name.to_owned()), empty_layer, ..Step::default() }
    }

    #[test]
    fn each_step_that_made_a_layer_has_the_next_one() {
        let history = vec![step("a", false), step("b", true), step("c", false)];
        let steps = join(history, layers(2), vec!["one".into(), "two".into()]);
        let told: Vec<_> =
            steps.iter().map(|step| (step.created_by.as_deref(), step.diff_id.as_deref())).collect();
        assert_eq!(told, [(Some("a"), Some("one")), (Some("b"), None), (Some("c"), Some("two"))]);
        assert!(steps[0].layer.is_some() && steps[1].layer.is_none() && steps[2].layer.is_some());
    }

    #[test]
    fn no_layer_is_lost_when_the_counts_differ() {
        for (steps, count) in [(0, 3), (1, 3), (5, 3)] {
            let history: Vec<Step> = (0..steps).map(|_| step("x", false)).collect();
            let joined = join(history.clone(), layers(count), vec!["one".into()]);
            assert_eq!(joined.len(), steps.max(count));
            assert_eq!(joined.iter().filter(|step| step.layer.is_some()).count(), count);
            let config =
                ImageConfig { platform: None, created: None, author: None, diff_ids: vec![], history };
            assert_eq!(findings_of(&config, count).len(), if steps == 0 { 1 } else { 2 });
        }
    }
}
