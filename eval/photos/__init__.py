"""The benchmark on photographs: questions about any pictures annotated in the COCO detection format."""
