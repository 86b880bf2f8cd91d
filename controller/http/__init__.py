"""What all routes share: errors, authentication and the OpenAPI document."""
