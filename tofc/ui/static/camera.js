// One picture from the camera, or null where the person changed their mind.

const dialog = document.getElementById("shoot");
const live = document.getElementById("live");

export async function shoot() {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new Error("no camera here: browsers allow it over https and on localhost only");
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1280 } } });
  } catch (error) {
    throw new Error(error.name === "NotFoundError" ? "there is no camera on this machine"
      : "the browser may not use the camera; allow it beside the address and try again");
  }
  try {
    live.srcObject = stream;
    await live.play();
    dialog.showModal();
    return (await decision()) ? await still() : null;
  } finally {
    if (dialog.open) dialog.close();
    live.srcObject = null;
    stream.getTracks().forEach((track) => track.stop());
  }
}

function decision() {
  return new Promise((resolve) => {
    document.getElementById("camera-take").onclick = () => resolve(true);
    document.getElementById("camera-cancel").onclick = () => resolve(false);
    dialog.oncancel = () => resolve(false);
  });
}

function still() {
  const canvas = document.createElement("canvas");
  canvas.width = live.videoWidth;
  canvas.height = live.videoHeight;
  canvas.getContext("2d").drawImage(live, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
}
