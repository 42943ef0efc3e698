"""The paper's search correlation on a user's data (section 4.1, Fig. 4): super-nets against training from scratch."""
