"""Adapters: LoRA, DoRA, AdaLoRA, VeRA and IA3. The folder's name is older than its contents."""
