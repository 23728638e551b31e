//! What `GalleryService` shows: one item, a page of items or labels, and what may be wrong.

use std::ops::Bound;

use tonic::Status;

use super::items::ItemHandler;
use crate::deployment::Deployment;
use crate::server::messages::convert;
use crate::server::messages::doubts;
use crate::server::messages::page_token;
use crate::server::status::from_error;
use matchpoint_client::proto::{
    CheckItemsRequest, CheckItemsResponse, GetItemRequest, GetItemResponse, LabelItems,
    ListItemsRequest, ListItemsResponse, ListLabelsRequest, ListLabelsResponse,
};
use matchpoint_embed::caller::Caller;

/// The highest length of a text to search labels by, which is that of a label.
const CONTAINS_BYTES_MAX: usize = 512;

impl ItemHandler {
    pub(super) async fn get(
        &self,
        caller: Caller,
        request: GetItemRequest,
    ) -> Result<GetItemResponse, Status> {
        let deployment = self.registry.find(&request.deployment)?;
        let (head, vector) = deployment
            .item(&request.id)
            .map_err(|error| from_error(&error))?;
        let shown = request.include_embedding.then_some(&*vector);
        let mut item = convert::item(&head, shown);
        item.etag = head.etag(&vector);
        let image = if request.include_image {
            let image = deployment.image(caller, request.id).await;
            image.map_err(|error| from_error(&error))?
        } else {
            None
        };
        Ok(GetItemResponse {
            item: Some(item),
            image: image.unwrap_or_default(),
        })
    }

    pub(super) async fn list(
        &self,
        request: ListItemsRequest,
    ) -> Result<ListItemsResponse, Status> {
        let deployment = self.registry.find(&request.deployment)?;
        let size = convert::page_size(request.page_size)?;
        let after = page_token::read_token(&request.page_token)?;
        // For those of a label all items are scanned.
        let scans = !request.label.is_empty();
        let make = move || page(&deployment, &request, after.as_deref(), size);
        if scans {
            self.registry.heavy(make).await
        } else {
            self.registry.page(make).await
        }
    }

    pub(super) async fn check(
        &self,
        request: &CheckItemsRequest,
    ) -> Result<CheckItemsResponse, Status> {
        let deployment = self.registry.find(&request.deployment)?;
        let check = move || {
            let repeated = deployment.view().repeated();
            doubts::of_items(&deployment.alike_labels(), &repeated)
        };
        self.registry.heavy(check).await
    }

    pub(super) async fn list_labels(
        &self,
        request: ListLabelsRequest,
    ) -> Result<ListLabelsResponse, Status> {
        let deployment = self.registry.find(&request.deployment)?;
        let size = convert::page_size(request.page_size)?;
        let after = page_token::read_token(&request.page_token)?;
        let bytes = request.contains.len();
        if CONTAINS_BYTES_MAX < bytes {
            let problem = format!("contains has {bytes} bytes; it may have {CONTAINS_BYTES_MAX}");
            return Err(convert::invalid(&problem));
        }
        let read = move || deployment.labels(&request.contains);
        let found = self.registry.heavy(read).await?;
        let total_labels = found.len() as u64;
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut following = found.range((after, Bound::Unbounded));
        let page = following.by_ref().take(size);
        let labels: Vec<LabelItems> = page
            .map(|(label, items)| LabelItems {
                label: label.clone(),
                items: *items,
            })
            .collect();
        let last = labels.last().filter(|_| following.next().is_some());
        Ok(ListLabelsResponse {
            next_page_token: last.map_or_else(String::new, |one| page_token::token(&one.label)),
            labels,
            total_labels,
        })
    }
}

/// A page of at most `size` items, those after an id.
fn page(
    deployment: &Deployment,
    request: &ListItemsRequest,
    after: Option<&str>,
    size: usize,
) -> ListItemsResponse {
    // One item more than the page shows whether there is a next page.
    let mut heads = if request.label.is_empty() {
        deployment.items(after, size + 1)
    } else {
        deployment.items_of(&request.label, after, size + 1)
    };
    let more = size < heads.len();
    heads.truncate(size);
    let next = heads
        .last()
        .filter(|_| more)
        .map(|head| page_token::token(&head.id));
    let items = heads.iter().filter_map(|head| {
        if !request.include_embedding {
            return Some(convert::item(head, None));
        }
        // An item that was removed since the page was read is left out.
        let (head, vector) = deployment.item(&head.id).ok()?;
        Some(convert::item(&head, Some(&vector)))
    });
    ListItemsResponse {
        items: items.collect(),
        next_page_token: next.unwrap_or_default(),
        total_items: deployment.view().len() as u64,
    }
}
