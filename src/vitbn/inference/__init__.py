"""What trained and imported networks are used for; knows models, not how they were trained."""
