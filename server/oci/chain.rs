//! Chain IDs: names of layers applied in order (image-spec, config.md, *Layer ChainID*).

use crate::oci::{Algorithm, Digest};

/// The chain ID of each of the layers with these diff IDs, the lowest first.
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let id = match chain.last() {
            None => diff_id.clone(),
            Some(below) => Digest::of(Algorithm::Sha256, format!("{below} {diff_id}").as_bytes()),
        };
        chain.push(id);
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_named_by_the_text_of_what_is_below_and_the_layer() {
        let [one, two, three] = ["1", "2", "3"].map(|text| Digest::of(Algorithm::Sha256, text.as_bytes()));
        let of = |text: String| Digest::of(Algorithm::Sha256, text.as_bytes());
        let second = of(format!("{one} {two}"));
        let third = of(format!("{second} {three}"));
        assert_eq!(chain_ids(&[one.clone(), two, three]), [one, second, third]);
        assert_eq!(chain_ids(&[]), []);
    }
}
