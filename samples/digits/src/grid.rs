//! An image as JSON: `{"image": …}` with 64 numbers from 0 (dark) to 1 (ink), or 8 rows of 8.

use serde::Deserialize;
use shoal_sdk::Error;

/// The body of a request without a picture.
#[derive(Deserialize)]
pub(crate) struct Grid {
    image: Image,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "image: expected 64 numbers or 8 rows of 8")]
enum Image {
    Numbers(Vec<f32>),
    Rows(Vec<Vec<f32>>),
}

impl Grid {
    /// The 64 numbers, row by row.
    ///
    /// # Errors
    /// [`Error::BadInput`] where there are more or fewer, or one is not from 0 to 1.
    pub(crate) fn intensities(self) -> Result<Vec<f32>, Error> {
        let numbers = match self.image {
            Image::Numbers(numbers) => numbers,
            Image::Rows(rows) => rows.concat(),
        };
        if numbers.len() != 64 {
            let message = format!("image: expected 64 numbers, got {}", numbers.len());
            return Err(Error::bad_field("image", message));
        }
        // By its index: to print the number itself would add 25 KB of code to the component.
        if let Some(index) = numbers
            .iter()
            .position(|number| !(0.0..=1.0).contains(number))
        {
            let message = format!("image: expected numbers from 0 to 1, number {index} is not");
            return Err(Error::bad_field("image", message));
        }
        Ok(numbers)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    fn intensities(image: serde_json::Value) -> Result<Vec<f32>, String> {
        let grid: Grid =
            from_value(json!({ "image": image })).map_err(|error| error.to_string())?;
        grid.intensities().map_err(|error| error.to_string())
    }

    fn with_last(last: f32) -> Vec<f32> {
        let mut image = vec![1.0; 64];
        image[63] = last;
        image
    }

    #[test]
    fn numbers_and_rows_of_numbers_are_the_same_image() {
        assert_eq!(intensities(json!(vec![0.5; 64])), Ok(vec![0.5; 64]));
        assert_eq!(intensities(json!(vec![[0.5; 8]; 8])), Ok(vec![0.5; 64]));
    }

    #[test]
    fn a_bad_image_is_refused_in_words_that_name_the_limit() {
        let cases = [
            (json!(vec![0.5; 63]), "image: expected 64 numbers, got 63"),
            (
                json!(vec![[0.5; 8]; 9]),
                "image: expected 64 numbers, got 72",
            ),
            (
                json!(with_last(1.01)),
                "image: expected numbers from 0 to 1, number 63 is not",
            ),
            (
                json!(with_last(-0.01)),
                "image: expected numbers from 0 to 1, number 63 is not",
            ),
            (json!("seven"), "image: expected 64 numbers or 8 rows of 8"),
        ];
        for (image, message) in cases {
            assert_eq!(intensities(image), Err(message.to_owned()));
        }
    }
}
