// Light or dark as last chosen, before anything is drawn; without a choice the system's own.
{
  const chosen = localStorage.getItem("neuroserve.theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
}
