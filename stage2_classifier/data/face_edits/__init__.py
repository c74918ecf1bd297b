"""Changes to the pixels of a face that keep its class: things before the mouth, and masks of other colours."""
