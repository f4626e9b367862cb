//! `orlop image`: names for what is stored, and what is behind them.

mod archive;
mod views;

use clap::Subcommand;
use reqwest::Method;
use serde_json::{Value, json};

use super::changes::{LabelChanges, label_lines};
use super::context::{Careful, Context, write_line};
use super::digest_arg::parse_digest_arg;
use super::failure::{Exit, Failure};
use super::list::{Listing, What, list};
use super::text::escape;
use crate::oci::Reference;

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// List images
    #[command(alias = "list")]
    Ls(#[command(flatten)] Listing),
    /// Give what an image or digest names a further name
    #[command(before_help = "Examples:\n  orlop image tag alpine:3.22 alpine:stable\n  \
        orlop image tag 9f86d0 app:1.2 --force")]
    Tag {
        /// Name or id of an image, or a digest
        source: String,
        /// The new name
        name: String,
        /// Move the name if it is taken
        #[arg(long, short)]
        force: bool,
    },
    /// Label an image; KEY= removes a label
    #[command(before_help = "Examples:\n  orlop image label app:1.2 stage=release\n  \
        orlop image label app:1.2 team=harbour stage= --replace-all")]
    Label {
        /// Name or id
        name: String,
        #[command(flatten)]
        changes: LabelChanges,
    },
    /// All that is told of an image: its record, its labels, and for each platform what it is made of
    #[command(before_help = "Examples:\n  orlop image inspect alpine:3.22")]
    Inspect {
        /// Name or id
        name: String,
    },
    /// What of an image is stored; exit code 10 when something is missing
    #[command(before_help = "Examples:\n  orlop image check alpine:3.22\n  \
        orlop image check app:1.2 --platform linux/arm64 || orlop pull app:1.2 --platform linux/arm64")]
    Check(#[command(flatten)] views::ViewArgs),
    /// How an image was built, step by step
    #[command(before_help = "Examples:\n  orlop image history alpine:3.22")]
    History(#[command(flatten)] views::ViewArgs),
    /// What an image takes, and which other images share it
    #[command(before_help = "Examples:\n  orlop image usage alpine:3.22 --json")]
    Usage {
        /// Name or id
        name: String,
    },
    /// Write an image as one file: an OCI image layout, as a tar
    Export(#[command(flatten)] archive::ExportArgs),
    /// Store the images of an archive: an OCI image layout, or what docker save wrote
    Import(#[command(flatten)] archive::ImportArgs),
    /// Remove names; what they named stays until nothing keeps it
    #[command(alias = "delete")]
    Rm {
        /// Names or ids
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        #[command(flatten)]
        careful: Careful,
    },
}

pub async fn image(context: &Context, command: ImageCommand) -> Result<Exit, Failure> {
    match command {
        ImageCommand::Ls(listing) => list(context, What::Images, &listing).await?,
        ImageCommand::Tag { source, name, force } => tag(context, &source, &name, force).await?,
        ImageCommand::Label { name, changes } => label(context, &name, &changes).await?,
        ImageCommand::Inspect { name } => views::inspect(context, &name).await?,
        ImageCommand::Check(args) => return views::check(context, &args).await,
        ImageCommand::History(args) => views::history(context, &args).await?,
        ImageCommand::Usage { name } => views::usage(context, &name).await?,
        ImageCommand::Export(args) => archive::export(context, args).await?,
        ImageCommand::Import(args) => archive::import(context, args).await?,
        ImageCommand::Rm { names, careful } => {
            return super::for_each(context, &names, async |name| remove(context, name, &careful).await)
                .await;
        }
    }
    Ok(Exit::Success)
}

async fn tag(context: &Context, source: &str, name: &str, force: bool) -> Result<(), Failure> {
    let doing = format!("tag {source} as {name}");
    let create = async |body: Value| {
        context.client.scoped(Method::POST, &["images"], doing.clone()).json(&body).fetch().await
    };
    let target = match find_named(context, source, &doing).await? {
        Named::Image(image) => {
            json!({"digest": image.pointer("/target/digest"), "media_type": image.pointer("/target/media_type"),
            "size": image.pointer("/target/size")})
        }
        Named::Digest(digest) => json!({"digest": digest}),
    };
    let tagged = match create(json!({"name": name, "target": target})).await {
        Err(taken) if force && taken.exit == Exit::Conflict => {
            let Some(image) = find(context, name).await? else { return Err(taken) };
            let id = id_of(&image);
            let call = context.client.scoped(Method::PATCH, &["images", &id], doing.clone());
            // What was noted of the old target is not true of the new one.
            let mut target = target;
            target["annotations"] = Value::Null;
            call.merge_patch(&json!({"target": target})).fetch().await?
        }
        Err(taken) if taken.exit == Exit::Conflict => return Err(taken.hint("--force moves the name")),
        tagged => tagged?,
    };
    context.print(&tagged, |image| {
        let text = |pointer: &str| escape(image.pointer(pointer).and_then(Value::as_str).unwrap_or_default());
        format!("{} {}", text("/name"), text("/target/digest"))
    })
}

async fn label(context: &Context, name: &str, changes: &LabelChanges) -> Result<(), Failure> {
    let doing = format!("label {name}");
    let image = find_known(context, name, &doing).await?;
    let patch = json!({"labels": changes.patch(image.get("labels"))});
    let call = context.client.scoped(Method::PATCH, &["images", &id_of(&image)], doing);
    let labelled = call.merge_patch(&patch).fetch().await?;
    context.print(&labelled, label_lines)
}

async fn remove(context: &Context, name: &str, careful: &Careful) -> Result<(), Failure> {
    let doing = format!("remove image {name}");
    let image = find_known(context, name, &doing).await?;
    if !careful.go_on(&doing)? {
        return Ok(());
    }
    context.client.scoped(Method::DELETE, &["images", &id_of(&image)], doing).send().await?;
    write_line(&escape(image.get("name").and_then(Value::as_str).unwrap_or(name)))
}

/// The image of this name or id. A name that no image has is taken for a reference, as a pull takes it: `alpine` is
/// `docker.io/library/alpine:latest`.
async fn find(context: &Context, name: &str) -> Result<Option<Value>, Failure> {
    let doing = format!("get image {name}");
    for name in std::iter::once(name.to_owned()).chain(in_full(name)) {
        let call = context.client.scoped(Method::GET, &["images"], doing.clone()).query("name", &name);
        let mut found = call.fetch().await?;
        if let Some(image) = found.pointer_mut("/items/0").map(Value::take) {
            return Ok(Some(image));
        }
    }
    if !name.starts_with("img_") {
        return Ok(None);
    }
    match context.client.scoped(Method::GET, &["images", name], doing).fetch().await {
        Ok(image) => Ok(Some(image)),
        Err(failure) if failure.exit == Exit::NotFound => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// What a person names: an image, or content by its digest.
pub enum Named {
    /// Its record.
    Image(Value),
    Digest(String),
}

/// What goes by this name, id or digest.
///
/// # Errors
/// `NotFound`; `Usage` for the beginning of several digests.
pub async fn find_named(context: &Context, name: &str, doing: &str) -> Result<Named, Failure> {
    // A name comes first: "deadbeef" may be one. Only what no image has is taken for a digest.
    if let Some(image) = find(context, name).await? {
        return Ok(Named::Image(image));
    }
    match parse_digest_arg(name) {
        Ok(digest) => digest.resolve(context).await.map(Named::Digest),
        Err(_) => {
            let failure = Failure::new(Exit::NotFound, doing, "it is neither an image nor a digest");
            Err(failure.hint("orlop ls images"))
        }
    }
}

/// The reference that a short name stands for, where that is another text.
fn in_full(name: &str) -> Option<String> {
    name.parse::<Reference>().ok().map(|full| full.to_string()).filter(|full| full != name)
}

/// The image of this name or id, which must be there.
async fn find_known(context: &Context, name: &str, doing: &str) -> Result<Value, Failure> {
    find(context, name).await?.ok_or_else(|| {
        let why = match in_full(name) {
            Some(full) => format!("there is no such image, nor {full}"),
            None => "there is no such image".to_owned(),
        };
        Failure::new(Exit::NotFound, doing, why).hint("orlop ls images")
    })
}

async fn find_id(context: &Context, name: &str, doing: &str) -> Result<String, Failure> {
    Ok(id_of(&find_known(context, name, doing).await?))
}

pub fn id_of(image: &Value) -> String {
    image.get("id").and_then(Value::as_str).unwrap_or_default().to_owned()
}
