//! The end of an import: names.

use std::collections::{BTreeMap, HashMap};

use super::{Found, Import, MovedName, refuse};
use crate::error::Result;
use crate::oci::{Descriptor, Digest};
use crate::store::{ImageSource, Labels, NameTaken, NewImage, NewTarget, Target, check_image_name};

impl Import<'_> {
    pub(super) async fn name(&mut self, name: String, target: &Descriptor) -> Result<()> {
        let source = ImageSource::Target(NewTarget {
            digest: target.digest.clone(),
            media_type: Some(target.media_type.clone()),
            size: Some(target.size),
            annotations: BTreeMap::new(),
        });
        let new = NewImage { name, source, labels: Labels::new() };
        let named = self.store.create_image(&self.caller, new, NameTaken::Move).await?;
        let image = named.image;
        self.store.hint_media_types(&image).await?;
        if let Some(from) = named.moved_from {
            self.done.moved.push(MovedName {
                name: image.name.clone(),
                from,
                to: image.target.digest.clone(),
            });
        }
        self.done.images.push(image);
        Ok(())
    }
}

/// One name is for one image.
pub(super) fn check_names(found: &[Found]) -> Result<()> {
    let mut known: HashMap<&str, &Digest> = HashMap::new();
    for Found { names, target } in found {
        for name in names {
            check_image_name(name).map_err(|error| refuse(format!("a name in the archive: {error}")))?;
            if known.insert(name, &target.digest).is_some_and(|other| *other != target.digest) {
                return Err(refuse(format!(
                    "the archive has two images of the name `{name}`: `name` imports its index as one"
                )));
            }
        }
    }
    Ok(())
}

pub(super) fn target_of(descriptor: &Descriptor) -> Target {
    Target {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.to_string(),
        size: descriptor.size,
        annotations: descriptor.annotations.clone(),
    }
}
