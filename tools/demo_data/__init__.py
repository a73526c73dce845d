"""Parts of make_data: the prompts that are asked, and the model that answers them."""
