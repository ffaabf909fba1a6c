"""What a network looks at: saliency, class activation, attention, and how far they meet objects."""
