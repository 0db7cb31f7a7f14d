// The data that the page was made with.
const data = JSON.parse(document.getElementById("data").textContent);
const overview = data.overview;
