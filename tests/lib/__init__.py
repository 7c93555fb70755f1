"""What the integration and end-to-end tests are written with: servers, pipelines, comparisons."""
