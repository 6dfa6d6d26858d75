"""halfmap: cryo-EM from micrographs to maps, in one package."""
